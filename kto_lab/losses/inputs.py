"""What a loss is given, and how it says what it needs.

Log-ratios are r = log pi(y|x) - log pi_ref(y|x), summed over the completion's tokens, in nats and without beta.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TypeVar

import torch
from torch import Tensor

from kto_lab.errors import LabError


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
    """What a loss declares; batching, the reference point and the module follow from it.

    Attributes:
        feed: single thumbs, desirable completions alone, or pairs of one prompt.
        reference: whether the loss reads the reference's log-probs (they are always there, for reports).
        reference_token_logps: whether it reads the reference's log-prob of every token, and not of completions alone.
        reference_point: whether it uses a reference point z0.
        weighting: whether it uses lambda_D and lambda_U.
        controls: whether prompts end with a control text that says which class is asked for.
        mean_over: what the step's loss is the mean over.
    """

    feed: Feed
    reference: bool = True
    reference_token_logps: bool = False
    reference_point: bool = False
    weighting: bool = False
    controls: bool = False
    mean_over: MeanOver = MeanOver.UNITS

    def __post_init__(self) -> None:
        """Refuse a declaration that contradicts itself."""
        if self.reference_token_logps and not self.reference:
            raise LabError(
                "A loss declares Needs(reference=False, reference_token_logps=True): per-token log-probs of the "
                "reference need a reference. Leave one of the two out."
            )


@dataclass(frozen=True)
class Controls:
    """The texts that end a prompt to ask for a desirable or an undesirable completion."""

    desirable: str
    undesirable: str


def _empty() -> Tensor:
    return torch.empty(0)


def _widen(inputs: "Thumbs | Pairs") -> None:
    """Half precision becomes float32: what counts is the small difference of two sums of hundreds of nats."""
    for item in fields(inputs):
        value = getattr(inputs, item.name)
        if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
            object.__setattr__(inputs, item.name, value.float())


@dataclass(frozen=True)
class Thumbs:
    """N completions with a thumb each; all tensors (N,) unless said. Half precision is taken as float32.

    Attributes:
        policy: log pi(y|x), nats, differentiable.
        reference: log pi_ref(y|x), nats.
        desirable: bool, thumbs-up.
        lambda_desirable: weight of a desirable completion.
        lambda_undesirable: weight of an undesirable one.
        z0: (N,) or scalar, the reference point in nats of log-ratio, no gradient; 0 where the loss needs none.
        token_logps: (T,) log pi of every completion token, completion by completion, whose sums are `policy`.
        lengths: tokens of each completion.
        reference_token_logps: (T,) log pi_ref of every completion token, whose sums are `reference`; empty where the
            loss does not declare that it needs them.
    """

    policy: Tensor
    reference: Tensor
    desirable: Tensor
    lambda_desirable: float = 1.0
    lambda_undesirable: float = 1.0
    z0: Tensor = field(default_factory=lambda: torch.zeros(()))
    token_logps: Tensor = field(default_factory=_empty)
    lengths: Tensor = field(default_factory=_empty)
    reference_token_logps: Tensor = field(default_factory=_empty)

    def __post_init__(self) -> None:
        """Take half precision as float32."""
        _widen(self)

    @property
    def logratio(self) -> Tensor:
        """(N,) r = log pi - log pi_ref, nats."""
        return self.policy - self.reference

    @property
    def sign(self) -> Tensor:
        """(N,) +1 where desirable, -1 where not."""
        return self.desirable.to(self.policy.dtype) * 2 - 1

    @property
    def weight(self) -> Tensor:
        """(N,) lambda_D or lambda_U."""
        up = torch.full_like(self.policy.detach(), self.lambda_desirable)
        return torch.where(self.desirable, up, self.lambda_undesirable)


@dataclass(frozen=True)
class Pairs:
    """N pairs of a chosen (desirable) and a rejected (undesirable) completion of one prompt; tensors (N,) unless said.

    Half precision is taken as float32.

    Attributes:
        policy_chosen: log pi(y|x), nats, differentiable; likewise the next three.
        policy_rejected: of the rejected completion.
        reference_chosen: under the reference.
        reference_rejected: under the reference.
        lengths_chosen: tokens of each chosen completion.
        lengths_rejected: tokens of each rejected completion.
        token_logps_chosen: (T,) log pi of every token of the chosen completions, completion by completion.
        token_logps_rejected: (T',) of the rejected completions.
        reference_token_logps_chosen: (T,) log pi_ref of the same tokens; empty where the loss does not declare that it
            needs them.
        reference_token_logps_rejected: (T',) likewise.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    lengths_chosen: Tensor = field(default_factory=_empty)
    lengths_rejected: Tensor = field(default_factory=_empty)
    token_logps_chosen: Tensor = field(default_factory=_empty)
    token_logps_rejected: Tensor = field(default_factory=_empty)
    reference_token_logps_chosen: Tensor = field(default_factory=_empty)
    reference_token_logps_rejected: Tensor = field(default_factory=_empty)

    def __post_init__(self) -> None:
        """Take half precision as float32."""
        _widen(self)

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

    @property
    def mean_logp_chosen(self) -> Tensor:
        """(N,) log pi(y|x) of the chosen completions per token, nats."""
        return self.policy_chosen / self.lengths_chosen

    @property
    def mean_logp_rejected(self) -> Tensor:
        """(N,) log pi(y|x) of the rejected completions per token, nats."""
        return self.policy_rejected / self.lengths_rejected


LossFunction = TypeVar("LossFunction", bound=Callable[..., Tensor])


def declares(needs: Needs) -> Callable[[LossFunction], LossFunction]:
    """Attach to a loss function what it needs."""

    def attach(function: LossFunction) -> LossFunction:
        function.needs = needs  # type: ignore[attr-defined]
        return function

    return attach
