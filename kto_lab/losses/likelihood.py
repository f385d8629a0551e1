"""Likelihood losses: supervised fine-tuning and its relatives. One value per completion.

Each is a sum over the completion's tokens, and the step's loss is the mean over all completion tokens of the step, so
it does not depend on how the batch is cut. None of them uses the reference.
"""

import torch
from torch import Tensor

from kto_lab.losses.inputs import Feed, MeanOver, Needs, Thumbs, declares
from kto_lab.losses.stable import log_complement
from kto_lab.segment_sums import segment_sums


@declares(Needs(Feed.DESIRABLE, reference=False, mean_over=MeanOver.TOKENS))
def sft(batch: Thumbs) -> Tensor:
    """Supervised fine-tuning on the desirable completions alone.

        -log pi(y|x)

    Source: maximum likelihood; Ouyang et al. 2022, "Training language models to follow instructions", arXiv 2203.02155.

    Args:
        batch: N desirable completions.

    Returns:
        (N,) negative log-likelihoods, nats, summed over tokens.
    """
    return -batch.policy


@declares(Needs(Feed.THUMBS, reference=False, controls=True, mean_over=MeanOver.TOKENS))
def csft(batch: Thumbs) -> Tensor:
    """Conditional supervised fine-tuning: each completion follows a control text that names its class.

        -log pi(y | x, c)    with c = controls.desirable or controls.undesirable, by the thumb

    The control ends the prompt and is not itself trained. The trained policy is judged, and its chat template saved,
    with the desirable control. Source: Korbak et al. 2023, "Pretraining Language Models with Human Preferences", arXiv
    2302.08582, section 2; a baseline of Ethayarajh et al. 2024, arXiv 2402.01306.

    Args:
        batch: N completions; `policy` is log pi(y | x, c).

    Returns:
        (N,) negative log-likelihoods, nats, summed over tokens.
    """
    return -batch.policy


@declares(Needs(Feed.THUMBS, reference=False, weighting=True, mean_over=MeanOver.TOKENS))
def unlikelihood(batch: Thumbs) -> Tensor:
    """Likelihood of desirable completions and unlikelihood of the tokens of undesirable ones.

        -lambda_D sum_t log pi(y_t | x, y_<t)          when y is desirable
        -lambda_U sum_t log(1 - pi(y_t | x, y_<t))     when it is not

    lambda_U is the paper's alpha. A token with 1 - pi below 1e-6 counts with log(1e-6) and has no gradient. Source:
    Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training", arXiv 1908.04319, equation 4 with the
    tokens of undesirable completions as negative candidates.

    Args:
        batch: N completions, with `token_logps` and `lengths`.

    Returns:
        (N,) losses, nats, summed over tokens.
    """
    unlikely = segment_sums(log_complement(batch.token_logps), batch.lengths)
    return -batch.weight * torch.where(batch.desirable, batch.policy, unlikely)
