"""Learning-rate schedules: the shipped options of the group `schedule`.

A schedule is made from the optimiser and returns a `torch.optim.lr_scheduler.LRScheduler` that is advanced once per
optimiser step. Unlike transformers' schedules these spend no step at a rate of zero: the first step is at
1 / (warm-up steps + 1) of the peak, and the last of a cosine is just above zero.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kto_lab.errors import LabError


def cosine(optimizer: Optimizer, *, steps: int, warmup: float) -> LambdaLR:
    """A linear rise to the optimiser's own rate, then half a cosine down to zero.

    Args:
        optimizer: whose learning rate is the peak.
        steps: optimiser steps of the run.
        warmup: share of them over which the rate rises.

    Raises:
        LabError: `warmup` is no share.
    """
    rising = _warmup_steps(steps, warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising + 1)))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, *, steps: int, warmup: float) -> LambdaLR:
    """A linear rise to the optimiser's own rate, which then stays; arguments and errors as for `cosine`."""
    rising = _warmup_steps(steps, warmup)
    return LambdaLR(optimizer, lambda step: (step + 1) / (rising + 1) if step < rising else 1.0)


def _warmup_steps(steps: int, warmup: float) -> int:
    if not (isinstance(warmup, int | float) and 0 <= warmup <= 1):
        raise LabError(f"schedule.warmup is {warmup!r}; it is a share of the steps, between 0 and 1.")
    return round(warmup * steps)
