"""What a loss is given, and how it says what it needs.

Log-ratios are r = log pi(y|x) - log pi_ref(y|x), summed over the completion's tokens, in nats and without beta.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from torch import Tensor


class Feed(Enum):
    """What one unit of the batch is."""

    THUMBS = "thumbs"
    DESIRABLE = "desirable"
    PAIRS = "pairs"


class MeanOver(Enum):
    """What the loss of a step is the mean over: its units, or the completion tokens of its units."""

    UNITS = "units"
    TOKENS = "tokens"


@dataclass(frozen=True)
class Needs:
    """What a loss declares; batching, reference log-probs and the module follow from it.

    Attributes:
        feed: single thumbs, desirable completions alone, or pairs of one prompt.
        reference: whether it uses the reference's log-probs.
        reference_point: whether it uses a reference point z0.
        mean_over: what the step's loss is the mean over.
    """

    feed: Feed
    reference: bool = True
    reference_point: bool = False
    mean_over: MeanOver = MeanOver.UNITS


@dataclass(frozen=True)
class Thumbs:
    """N completions with a thumb each; all tensors (N,) unless said.

    Attributes:
        policy: log pi(y|x), float32, differentiable.
        reference: log pi_ref(y|x); zeros where the loss needs no reference.
        desirable: bool, thumbs-up.
        weight: lambda_D or lambda_U of each.
        z0: scalar, the reference point in nats of log-ratio, no gradient; 0 where the loss needs none.
    """

    policy: Tensor
    reference: Tensor
    desirable: Tensor
    weight: Tensor
    z0: Tensor

    @property
    def logratio(self) -> Tensor:
        """(N,) r = log pi - log pi_ref, nats."""
        return self.policy - self.reference


@dataclass(frozen=True)
class Pairs:
    """N pairs of a chosen (desirable) and a rejected (undesirable) completion of one prompt; all tensors (N,)."""

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor

    @property
    def logratio_chosen(self) -> Tensor:
        """(N,) r of the chosen completions, nats."""
        return self.policy_chosen - self.reference_chosen

    @property
    def logratio_rejected(self) -> Tensor:
        """(N,) r of the rejected completions, nats."""
        return self.policy_rejected - self.reference_rejected

    @property
    def logratio_difference(self) -> Tensor:
        """(N,) r_chosen - r_rejected, nats."""
        return self.logratio_chosen - self.logratio_rejected


LossFunction = TypeVar("LossFunction", bound=Callable[..., Tensor])


def declares(needs: Needs) -> Callable[[LossFunction], LossFunction]:
    """Attach to a loss function what it needs."""

    def attach(function: LossFunction) -> LossFunction:
        function.needs = needs  # type: ignore[attr-defined]
        return function

    return attach
