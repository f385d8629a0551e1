"""Losses that read the reference's log-probability of every token, for `test_token_logps.py`."""

from collections.abc import Callable

import torch
from torch import Tensor

from kto_lab.losses import Feed, Needs, Pairs, Thumbs, declares

# The words of a command line that choose the first of them.
OF_TOKENS = ("loss=kto", "loss.function=tests.training.token_losses.kto_of_tokens")


@declares(Needs(Feed.THUMBS, reference_token_logps=True, reference_point=True, weighting=True))
def kto_of_tokens(batch: Thumbs, *, beta: float, value: Callable[[Tensor], Tensor]) -> Tensor:
    """KTO on each token, whose share of z0 is z0 / |y|, averaged over the tokens of a completion."""
    lengths = batch.lengths.tolist()
    parts = (batch.token_logps - batch.reference_token_logps).split(lengths)
    z0 = batch.z0.expand(len(lengths)) / batch.lengths
    gains = zip(parts, z0, batch.sign, strict=True)
    return batch.weight * torch.stack([(1 - value(sign * beta * (part - z))).mean() for part, z, sign in gains])


@declares(Needs(Feed.PAIRS, reference_token_logps=True))
def worst_token(batch: Pairs, *, beta: float) -> Tensor:
    """DPO on the lowest log-ratio of a token of either side."""
    chosen = (batch.token_logps_chosen - batch.reference_token_logps_chosen).split(batch.lengths_chosen.tolist())
    rejected = (batch.token_logps_rejected - batch.reference_token_logps_rejected).split(
        batch.lengths_rejected.tolist()
    )
    margins = [up.min() - down.min() for up, down in zip(chosen, rejected, strict=True)]
    return -torch.nn.functional.logsigmoid(beta * torch.stack(margins))
