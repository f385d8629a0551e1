"""How the policy is optimised: the keys of `optimization` in `conf/train.yaml`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from kto_lab.errors import LabError


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
        clip_norm: the gradient's global norm is clipped to this.
        micro_batch_tokens: padded tokens a micro-batch may hold; a matter of memory and speed, not of the result.
        keep_prompts_together: all completions of a prompt follow one another, so that their prompt is run once.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
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
    gradient_checkpointing: bool
    checkpoint_every: int

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        for name in ("batch_size", "epochs", "learning_rate", "clip_norm", "micro_batch_tokens", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise LabError(f"optimization.{name} is {getattr(self, name)}; it must be positive.")
        if self.max_steps is not None and self.max_steps < 1:
            raise LabError(f"optimization.max_steps is {self.max_steps}; it must be at least 1, or null.")
        if not 0 <= self.warmup <= 1:
            raise LabError(f"optimization.warmup is {self.warmup}; it is a share of the steps, between 0 and 1.")
        if self.schedule not in ("cosine", "constant"):
            raise LabError(f"optimization.schedule is {self.schedule!r}; it must be 'cosine' or 'constant'.")


def make_optimizer(
    settings: Optimization, parameters: Iterable[Parameter], *, steps: int
) -> tuple[Optimizer, LRScheduler]:
    """AdamW over the parameters, and its learning-rate schedule over `steps` optimiser steps."""
    optimizer = AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    warmup = round(settings.warmup * steps)
    if settings.schedule == "cosine":
        return optimizer, get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    return optimizer, get_constant_schedule_with_warmup(optimizer, warmup)
