"""The objective of a run: a loss function with its parameters, its reference point and its weighting."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hydra.utils import get_method
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.losses.inputs import Needs, Pairs, Thumbs
from kto_lab.losses.reference_points import Completions, ReferencePoint
from kto_lab.losses.weighting import Weights


class Estimator(Protocol):
    """A reference point of `reference_points.py`, or one of a user's own."""

    completions: Completions

    def estimate(self, logratios: Tensor) -> ReferencePoint:
        """See `reference_points.py`."""


class Weighting(Protocol):
    """A weighting of `weighting.py`, or one of a user's own."""

    def weights(self, n_desirable: int, n_undesirable: int) -> Weights:
        """See `weighting.py`."""


@dataclass(frozen=True)
class Objective:
    """What training minimises.

    Attributes:
        name: the loss function's name.
        losses: maps `Thumbs` or `Pairs` to (N,) losses.
        needs: what the loss declares.
        beta: scales implicit rewards, for the loss and for reports.
        reference_point: estimates z0, where the loss needs it.
        weighting: sets lambda_D and lambda_U, where the loss takes single thumbs of both classes.
    """

    name: str
    losses: Callable[[Thumbs | Pairs], Tensor]
    needs: Needs
    beta: float
    reference_point: Estimator | None
    weighting: Weighting | None

    @property
    def mismatched(self) -> bool:
        """Whether the policy is also run on mismatched pairs."""
        return self.reference_point is not None and self.reference_point.completions is Completions.MISMATCHED


def build(
    function: str,
    beta: float,
    reference_point: Estimator | None = None,
    weighting: Weighting | None = None,
    **parameters: Any,
) -> Objective:
    """Make the objective of a configuration node (`conf/loss/*.yaml`).

    Args:
        function: dotted name of a loss function that `declares` its needs.
        beta: inverse nats, positive.
        reference_point: for losses that need one.
        weighting: for losses of single thumbs.
        parameters: the function's own parameters.

    Raises:
        LabError: the function is missing or declares nothing, or the parameters are not the ones that it takes.
    """
    if not beta > 0:
        raise LabError(f"loss.beta is {beta}; it must be positive.")
    try:
        loss = get_method(function)
    except Exception as error:
        raise LabError(f"loss.function is {function!r}, which cannot be imported: {error}") from error
    needs = getattr(loss, "needs", None)
    if not isinstance(needs, Needs):
        raise LabError(
            f"loss.function {function!r} does not declare its needs; decorate it with kto_lab.losses.declares."
        )
    if needs.reference_point != (reference_point is not None):
        verb = "needs" if needs.reference_point else "takes no"
        raise LabError(f"The loss {loss.__name__} {verb} reference point; see loss.reference_point.")
    bound = functools.partial(loss, beta=beta, **parameters)
    try:
        inspect.signature(loss).bind(None, beta=beta, **parameters)
    except TypeError as error:
        raise LabError(f"loss: {loss.__name__} {error}; its parameters are {inspect.signature(loss)}.") from error
    return Objective(
        name=loss.__name__,
        losses=bound,
        needs=needs,
        beta=beta,
        reference_point=reference_point,
        weighting=weighting,
    )
