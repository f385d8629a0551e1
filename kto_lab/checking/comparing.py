"""How far apart numbers are, and whether a limit allows it."""

import torch
from torch import Tensor

from kto_lab.checking.row import Row, judged

ADVICE = "Compare torch and its libraries with constraints.txt; results of this machine would not be those of others."


def difference(ours: Tensor, right: Tensor) -> float:
    """The largest difference, relative to the largest number; NaN where a number is not finite."""
    ours, right = _exact(ours), _exact(right)
    return ((ours - right).abs().max() / right.abs().max()).item()


def distance(ours: Tensor, right: Tensor) -> float:
    """The norm of the difference, relative to the norm of what is right; NaN where a number is not finite."""
    ours, right = _exact(ours), _exact(right)
    return ((ours - right).norm() / right.norm()).item()


def _exact(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


def largest(values: list[float]) -> float:
    """The largest of some numbers; NaN where one is."""
    return torch.tensor(values, dtype=torch.float64).max().item()


def within(name: str, error: float, limit: float, *, where: str = "", mend: str = ADVICE) -> Row:
    """A row of an error that must not be above a limit.

    Args:
        name: of the row.
        error: what was measured; NaN fails.
        limit: the most that is right.
        where: what the error is of, if it is the worst of several.
        mend: what to do where it is above.
    """
    said = f"{error:.1e}" + (f" ({where})" if where else "")
    return judged(name, said, limit=f"{limit:.0e}", holds=error <= limit, mend=mend)
