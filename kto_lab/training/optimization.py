"""How the policy is optimised: the keys of `optimization` in `conf/train.yaml`.

Optimiser and schedule are groups of their own; see `update_rule.py`.
"""

from dataclasses import dataclass

from kto_lab.errors import LabError


@dataclass(frozen=True)
class Optimization:
    """One optimiser step is one batch; the rest says how steps are made and how many.

    Attributes:
        batch_size: examples (pairs, for a loss of pairs) per optimiser step, over all processes and micro-batches.
        epochs: passes over the training data.
        max_steps: stop after so many steps; None for no limit.
        learning_rate: the optimiser's; the peak of what the schedule makes of it.
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
        for name in ("keep_prompts_together", "dropout", "gradient_checkpointing"):
            if not isinstance(value := getattr(self, name), bool):
                raise LabError(f"optimization.{name} is {value!r}; it must be true or false.")
