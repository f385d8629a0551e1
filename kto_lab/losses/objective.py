"""The objective of a run: a loss function with its parameters, its reference point and its weighting."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol

import torch
from hydra.utils import get_method
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.kinds import ParametersOf
from kto_lab.losses.inputs import Controls, Feed, Needs, Pairs, Thumbs
from kto_lab.losses.noise import FlipRates
from kto_lab.losses.reference_points import Completions, Evidence, ReferencePoint, State
from kto_lab.losses.weighting import Weights

# What `loss.flip_rate` is set to where the share of swapped pairs is to be measured on the pairs themselves.
MEASURED: Final = "measured"


class Estimator(Protocol):
    """A reference point of `reference_points.py`, or one of a user's own."""

    completions: Completions

    @property
    def group(self) -> int | None:
        """Units of a step that share a reference point, and among which pairs are drawn; None for all of them."""

    def estimate(self, evidence: Evidence, state: State) -> ReferencePoint:
        """See `reference_points.py`."""


class Sampling(Estimator, Protocol):
    """An estimator from completions that the policy samples."""

    @property
    def samples(self) -> int:
        """Completions per step."""

    @property
    def max_new_tokens(self) -> int:
        """Where a completion is cut."""


class Weighting(Protocol):
    """A weighting of `weighting.py`, or one of a user's own."""

    def weights(self, n_desirable: float, n_undesirable: float) -> Weights:
        """See `weighting.py`."""


@dataclass(frozen=True)
class Objective:
    """What training minimises.

    Attributes:
        name: the loss function's name.
        losses: maps `Thumbs` or `Pairs` to (N,) losses.
        needs: what the loss declares.
        reward_beta: scale of the implicit rewards in reports, so that curves of all losses compare.
        reference_point: estimates z0, where the loss needs it.
        weighting: sets lambda_D and lambda_U, where the loss needs them.
        flip_rates: the label noise that the loss corrects for, where it does.
        controls: the texts that end the prompts, where the loss needs them.
        measured: `losses` still lacks the share of swapped pairs; see `told`.
    """

    name: str
    losses: Callable[[Thumbs | Pairs], Tensor]
    needs: Needs
    reward_beta: float
    reference_point: Estimator | None = None
    weighting: Weighting | None = None
    flip_rates: FlipRates | None = None
    controls: Controls | None = None
    measured: bool = False

    def told(self, swap_share: float) -> "Objective":
        """The objective with the measured share of swapped pairs as its `flip_rate`.

        Raises:
            LabError: the share is outside the loss's range.
        """
        bound: Callable[..., Tensor] = self.losses
        losses = functools.partial(bound, flip_rate=swap_share)
        losses(_two_pairs())
        return dataclasses.replace(self, losses=losses, measured=False)

    @property
    def compared_to(self) -> Completions:
        """Which completions the reference point is estimated from."""
        return self.reference_point.completions if self.reference_point else Completions.NONE


def build(
    function: str,
    *,
    beta: float | None = None,
    reward_beta: float | None = None,
    reference_point: Estimator | None = None,
    weighting: Weighting | None = None,
    flip_rates: FlipRates | None = None,
    controls: Controls | None = None,
    flip_rate: float | Literal["measured"] | None = None,
    **parameters: Annotated[Any, ParametersOf("function")],
) -> Objective:
    """Make the objective of a configuration node (`conf/loss/*.yaml`).

    Args:
        function: dotted name of a loss function that `declares` its needs.
        beta: the function's inverse temperature, positive; None for a function that takes none.
        reward_beta: scale of the implicit rewards in reports, per nat, positive; None for `beta`.
        reference_point: for losses that need one.
        weighting: for losses that need lambda_D and lambda_U.
        flip_rates: for losses that correct for label noise.
        controls: for losses that need control texts.
        flip_rate: for losses that are told the share of swapped pairs; "measured": it is unknown until
            `Objective.told` supplies it.
        parameters: the function's own parameters.

    Raises:
        LabError: the function is missing or declares nothing, what it is given is not what it needs, or the parameters
            are not the ones that it takes, or out of range.
    """
    loss, needs = _declared(function)
    for what, needed, given in (
        ("reference_point", needs.reference_point, reference_point),
        ("weighting", needs.weighting, weighting),
        ("controls", needs.controls, controls),
    ):
        if needed != (given is not None):
            raise LabError(f"The loss {loss.__name__} {'needs' if needed else 'takes no'} loss.{what}.")
    scale = reward_beta if reward_beta is not None else beta
    for name, number in (("beta", beta), ("reward_beta", scale)):
        if number is not None and not number > 0:
            raise LabError(f"loss.{name} is {number}; it must be positive.")
    if scale is None:
        raise LabError("loss.reward_beta is not set. It scales the implicit rewards that are reported, such as 0.1.")
    measured = flip_rate == MEASURED
    if measured:
        # Any rate that the loss takes, until there are pairs to measure it on.
        flip_rate = 0.0
    given_parameters = {"beta": beta, "flip_rates": flip_rates, "flip_rate": flip_rate}
    own = parameters | {name: value for name, value in given_parameters.items() if value is not None}
    try:
        inspect.signature(loss).bind(None, **own)
    except TypeError as error:
        raise LabError(f"loss: {loss.__name__} {error}; its parameters are {inspect.signature(loss)}.") from error
    bound = functools.partial(loss, **own)
    # A parameter that is out of range shows now rather than at the first step.
    bound(_two_pairs() if needs.feed is Feed.PAIRS else _two_thumbs())
    return Objective(
        name=loss.__name__,
        losses=bound,
        needs=needs,
        reward_beta=scale,
        reference_point=reference_point,
        weighting=weighting,
        flip_rates=flip_rates,
        controls=controls,
        measured=measured,
    )


def _declared(function: str) -> tuple[Callable[..., Tensor], Needs]:
    """A loss function by its dotted name, and what it declares."""
    try:
        loss = get_method(function)
    except Exception as error:
        raise LabError(f"loss.function is {function!r}, which cannot be imported: {error}") from error
    needs = getattr(loss, "needs", None)
    if not isinstance(needs, Needs):
        raise LabError(
            f"loss.function {function!r} does not declare its needs; decorate it with kto_lab.losses.declares."
        )
    return loss, needs


def _two_thumbs() -> Thumbs:
    logps = torch.tensor([-1.0, -2.0])
    return Thumbs(
        logps,
        logps,
        torch.tensor([True, False]),
        token_logps=logps,
        lengths=torch.ones(2, dtype=torch.long),
        reference_token_logps=logps,
    )


def _two_pairs() -> Pairs:
    logps, lengths = torch.tensor([-1.0, -2.0]), torch.ones(2, dtype=torch.long)
    return Pairs(logps, logps, logps, logps, lengths, lengths, logps, logps, logps, logps)
