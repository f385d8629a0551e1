"""How the policy is optimised: the keys of `optimization` in `conf/train.yaml`.

Optimiser and schedule are groups of their own; see `update_rule.py`.
"""

from dataclasses import dataclass

from kto_lab.kinds import AtLeastOne, Positive
from kto_lab.values import check_fields


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

    batch_size: AtLeastOne
    epochs: Positive
    max_steps: AtLeastOne | None
    learning_rate: Positive
    clip_norm: Positive
    micro_batch_tokens: AtLeastOne
    keep_prompts_together: bool
    dropout: bool
    gradient_checkpointing: bool
    checkpoint_every: AtLeastOne

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        check_fields(self, "optimization")
