"""Losses of single thumbs: pure functions of log-probabilities, one value for each completion."""

from collections.abc import Callable

import torch
from torch import Tensor

from kto_lab.losses.inputs import Feed, MeanOver, Needs, Thumbs, declares


@declares(Needs(Feed.THUMBS, reference=True, reference_point=True))
def kto(batch: Thumbs, *, beta: float, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Kahneman-Tversky optimisation.

    With r = log pi(y|x) - log pi_ref(y|x):

        lambda_D (1 - v(beta (r - z0)))   when y is desirable
        lambda_U (1 - v(beta (z0 - r)))   when it is not

    Source: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", arXiv 2402.01306,
    equation 7 in the notation of its later version (beta inside v).

    Args:
        batch: N completions; `weight` holds lambda_D or lambda_U.
        beta: inverse nats; how much a nat of log-ratio is felt.
        value: the value function v.

    Returns:
        (N,) losses, at most `weight` with the logistic value function. At policy = reference with z0 = 0: weight / 2.
    """
    gain = beta * (batch.logratio - batch.z0)
    sign = batch.desirable.to(gain.dtype) * 2 - 1
    return batch.weight * (1 - value(sign * gain))


@declares(Needs(Feed.DESIRABLE, reference=False, mean_over=MeanOver.TOKENS))
def sft(batch: Thumbs, *, beta: float) -> Tensor:
    """Supervised fine-tuning on desirable completions: -log pi(y|x), nats.

    The step's loss is the mean over completion tokens, as everywhere in the field. The mean is over all of the step's
    tokens, so it does not depend on how the batch is cut.

    Args:
        batch: N desirable completions.
        beta: scales the implicit rewards that are reported, so that curves compare; the loss does not use it.

    Returns:
        (N,) negative log-likelihoods, summed over tokens.
    """
    return -batch.policy


@declares(Needs(Feed.THUMBS))
def apo_zero_unpaired(batch: Thumbs, *, beta: float) -> Tensor:
    """Anchored preference optimisation, zero, on single thumbs: KTO's logistic loss with z0 = 0, and no second pass.

        lambda_D (1 - sigmoid(beta r))   when y is desirable
        lambda_U sigmoid(beta r)         when it is not

    Source: D'Oosterlinck et al. 2024, "Anchored Preference Optimization", arXiv 2408.06266, unpaired as in TRL.

    Args:
        batch: N completions; `weight` holds lambda_D or lambda_U.
        beta: inverse nats.

    Returns:
        (N,) losses, at most `weight`. At policy = reference: weight / 2.
    """
    sign = batch.desirable.to(batch.policy.dtype) * 2 - 1
    return batch.weight * torch.sigmoid(-sign * beta * batch.logratio)
