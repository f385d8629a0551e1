"""What the tests of checks share: the shipped limits, and the verdicts of rows by their names."""

from collections.abc import Sequence
from functools import cache

from hydra.utils import instantiate

from kto_lab.checking.row import Row
from kto_lab.checking.settings import Limits
from tests.small_runs import composed


@cache
def limits() -> Limits:
    made: Limits = instantiate(composed([], name="check").limits)
    return made


def verdicts(found: Row | Sequence[Row]) -> dict[str, str]:
    return {row.name: row.verdict for row in ([found] if isinstance(found, Row) else found)}
