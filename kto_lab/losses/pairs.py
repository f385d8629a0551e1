"""Losses of pairs of one prompt: pure functions of log-probabilities, one value for each pair."""

import torch.nn.functional as F
from torch import Tensor

from kto_lab.losses.inputs import Feed, Needs, Pairs, declares


@declares(Needs(Feed.PAIRS))
def dpo(batch: Pairs, *, beta: float) -> Tensor:
    """Direct preference optimisation: -log sigmoid(beta (r_chosen - r_rejected)).

    Source: Rafailov et al. 2023, "Direct Preference Optimization", arXiv 2305.18290, equation 7.

    Args:
        batch: N pairs.
        beta: inverse nats.

    Returns:
        (N,) losses. At policy = reference: log 2.
    """
    return -F.logsigmoid(beta * batch.logratio_difference)
