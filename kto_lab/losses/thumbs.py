"""Losses of single thumbs around a reference: pure functions of log-probabilities, one value for each completion."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kto_lab.losses.inputs import Feed, Needs, Thumbs, declares
from kto_lab.losses.noise import FlipRates


@declares(Needs(Feed.THUMBS, reference_point=True, weighting=True))
def kto(batch: Thumbs, *, beta: float, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Kahneman-Tversky optimisation. With r = log pi(y|x) - log pi_ref(y|x):

        lambda_D (1 - v(beta (r - z0)))   when y is desirable
        lambda_U (1 - v(beta (z0 - r)))   when it is not

    Source: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", arXiv 2402.01306,
    equation 7 in the notation of its later version (beta inside v).

    Args:
        batch: N completions.
        beta: inverse temperature, per nat of log-ratio; smaller allows more drift from the reference.
        value: the value function v.

    Returns:
        (N,) losses, at most the weight with the logistic value function. At policy = reference with z0 = 0: weight
        (1 - v(0)), which is weight / 2 with the logistic.
    """
    return batch.weight * (1 - value(batch.sign * _gain(batch, beta)))


@declares(Needs(Feed.THUMBS, reference_point=True, weighting=True))
def kto_robust(batch: Thumbs, *, beta: float, value: Callable[[Tensor], Tensor], flip_rates: FlipRates) -> Tensor:
    """KTO corrected for known flip rates: unbiased in expectation over the flips.

    With l_D = lambda_D (1 - v(u)), l_U = lambda_U (1 - v(-u)), u = beta (r - z0), and rho_D, rho_U the chance that a
    truly desirable (undesirable) completion has the other thumb:

        ((1 - rho_U) l_D - rho_D l_U) / (1 - rho_D - rho_U)   when the thumb is up
        ((1 - rho_D) l_U - rho_U l_D) / (1 - rho_D - rho_U)   when it is down

    Over the flips its mean is KTO's loss on the true thumbs, for every value function. With the logistic one it is KTO
    with other weights plus a constant (see `noise.robust_weights`). A single loss may be negative. Source: the unbiased
    estimator of Natarajan et al. 2013, "Learning with Noisy Labels", NeurIPS, lemma 1, applied to KTO's loss here.

    Args:
        batch: N completions; the weights are those of the true classes.
        beta: inverse temperature, per nat.
        value: the value function v.
        flip_rates: rho_D and rho_U, which sum to less than 1.

    Returns:
        (N,) losses. At policy = reference, z0 = 0, equal weights, equal rates and the logistic value: weight / 2.
    """
    gain = _gain(batch, beta)
    up = batch.lambda_desirable * (1 - value(gain))
    down = batch.lambda_undesirable * (1 - value(-gain))
    rho_up, rho_down = flip_rates.desirable, flip_rates.undesirable
    seen_up = (1 - rho_down) * up - rho_up * down
    seen_down = (1 - rho_up) * down - rho_down * up
    return torch.where(batch.desirable, seen_up, seen_down) / (1 - rho_up - rho_down)


@declares(Needs(Feed.THUMBS, reference=False, reference_point=True, weighting=True))
def kto_reference_free(batch: Thumbs, *, beta: float, value: Callable[[Tensor], Tensor]) -> Tensor:
    """KTO without a reference model. With l = log pi(y|x), and z0 the mean of log pi(y'|x) over mismatched pairs:

        lambda_D (1 - v(beta (l - z0)))   when y is desirable
        lambda_U (1 - v(beta (z0 - l)))   when it is not

    It is KTO with a reference that finds all completions equally likely, whose term cancels between r and z0. Here z0
    is a mean of log-probabilities, far below zero, and must not be clamped. Source: the paper's memory-efficient
    variant, Ethayarajh et al. 2024, arXiv 2402.01306, section 4 of its later version, with lambda_D = 1.75.

    Args:
        batch: N completions; z0 is in nats of log-probability.
        beta: inverse temperature, per nat.
        value: the value function v.

    Returns:
        (N,) losses, at most the weight with the logistic value function. At policy = reference: weight (1 - v(u)), and
        u = beta (l - z0) is not 0 there: more likely completions are gains from the start.
    """
    return batch.weight * (1 - value(batch.sign * beta * (batch.policy - batch.z0)))


@declares(Needs(Feed.THUMBS, weighting=True))
def apo_zero_unpaired(batch: Thumbs, *, beta: float) -> Tensor:
    """Anchored preference optimisation, zero, on single thumbs: KTO's logistic loss with z0 = 0.

        lambda_D (1 - sigmoid(beta r))   when y is desirable
        lambda_U sigmoid(beta r)         when it is not

    Source: D'Oosterlinck et al. 2024, "Anchored Preference Optimization", arXiv 2408.06266, unpaired as in TRL.

    Args:
        batch: N completions.
        beta: inverse temperature, per nat.

    Returns:
        (N,) losses, at most the weight. At policy = reference: weight / 2.
    """
    return batch.weight * torch.sigmoid(-batch.sign * beta * batch.logratio)


@declares(Needs(Feed.THUMBS, reference_point=True, weighting=True))
def bco(batch: Thumbs, *, beta: float) -> Tensor:
    """Binary classifier optimisation: logistic regression of the thumb on the implicit reward.

        -lambda_D log sigmoid(beta r - delta)      when y is desirable
        -lambda_U log sigmoid(-(beta r - delta))   when it is not

    delta = beta z0 is the reward shift, a running mean of rewards (`running_mean`). The formula is that of KTO with the
    concave value function. The paper's weighting of undesirable examples by an estimated density
    ratio, meant for prompts that differ between the classes, is left out. Source: Jung et al. 2024, "Binary Classifier
    Optimization for Large Language Model Alignment", arXiv 2404.04656.

    Args:
        batch: N completions.
        beta: inverse temperature, per nat.

    Returns:
        (N,) losses. At policy = reference with z0 = 0: weight log 2.
    """
    return -batch.weight * F.logsigmoid(batch.sign * _gain(batch, beta))


def _gain(batch: Thumbs, beta: float) -> Tensor:
    """(N,) u = beta (r - z0)."""
    return beta * (batch.logratio - batch.z0)
