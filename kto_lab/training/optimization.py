"""How the policy is optimised: the keys of `optimization` in `conf/train.yaml`."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kto_lab.errors import LabError

# torch is imported where it is needed: it takes seconds, and a mistyped value should show before.
if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class Optimization:
    """One optimiser step is one batch; the rest says how steps are made and how many.

    Attributes:
        batch_size: examples (pairs, for a loss of pairs) an optimiser step, over all processes and micro-batches.
        epochs: passes over the training data.
        max_steps: stop after so many steps; None for no limit.
        learning_rate: AdamW's peak.
        schedule: after the warm-up, "cosine" to zero or "constant".
        warmup: share of the steps over which the learning rate rises.
        weight_decay: AdamW's.
        clip_norm: the gradient's global norm is clipped to this, times the root mean square of the step's weights.
        micro_batch_tokens: tokens that are run at once; a matter of memory and speed, not of the result. A step within
            it is the fastest: its mismatched completions go on from the prompts of its own pass.
        keep_prompts_together: all completions of a prompt follow one another, so that their prompt is run once.
        dropout: the policy's own dropout is on in training; an adapter's is a number of its own. Where either is, each
            unit is run by itself.
        gradient_checkpointing: recompute activations in the backward pass: less memory, 1.2 to 1.9 times the time.
        checkpoint_every: steps between checkpoints to resume from.
    """

    batch_size: int
    epochs: float
    max_steps: int | None
    learning_rate: float
    schedule: Literal["cosine", "constant"]
    warmup: float
    weight_decay: float
    clip_norm: float
    micro_batch_tokens: int
    keep_prompts_together: bool
    dropout: bool
    gradient_checkpointing: bool
    checkpoint_every: int

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        for name in ("batch_size", "micro_batch_tokens", "checkpoint_every", "max_steps"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1) and not (name == "max_steps" and value is None):
                raise LabError(f"optimization.{name} is {value!r}; it must be a whole number, at least 1.")
        for name in ("epochs", "learning_rate", "clip_norm"):
            if not (isinstance(value := getattr(self, name), int | float) and value > 0):
                raise LabError(f"optimization.{name} is {value!r}; it must be a number above 0.")
        if not (isinstance(self.weight_decay, int | float) and self.weight_decay >= 0):
            raise LabError(f"optimization.weight_decay is {self.weight_decay!r}; it must be a number, 0 or above.")
        if not (isinstance(self.warmup, int | float) and 0 <= self.warmup <= 1):
            raise LabError(f"optimization.warmup is {self.warmup!r}; it is a share of the steps, between 0 and 1.")
        for name in ("keep_prompts_together", "dropout", "gradient_checkpointing"):
            if not isinstance(value := getattr(self, name), bool):
                raise LabError(f"optimization.{name} is {value!r}; it must be true or false.")
        if self.schedule not in ("cosine", "constant"):
            raise LabError(f"optimization.schedule is {self.schedule!r}; it must be 'cosine' or 'constant'.")


def make_optimizer(
    settings: Optimization, parameters: "Iterable[Parameter]", *, steps: int
) -> "tuple[Optimizer, LambdaLR]":
    """AdamW over the parameters, and its learning-rate schedule over `steps` optimiser steps."""
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import LambdaLR

    optimizer = AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    warmup = round(settings.warmup * steps)
    cosine = settings.schedule == "cosine"
    return optimizer, LambdaLR(optimizer, lambda step: rate_factor(step, warmup=warmup, steps=steps, cosine=cosine))


def rate_factor(step: int, *, warmup: int, steps: int, cosine: bool) -> float:
    """The share of the peak learning rate at a step, counted from 0.

    Unlike transformers' schedules, no step is spent at a rate of zero: the first is at 1 / (warmup + 1) of the peak,
    and the last is just above zero.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if not cosine:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup + 1)))
