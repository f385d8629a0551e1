"""Class balance of an import's thumbs and examples, counted on disk."""

import itertools
from dataclasses import dataclass, replace

from kto_lab.importing.repeats import Fate
from kto_lab.importing.stage import Stage
from kto_lab.statistics import Estimate, proportion_interval

# Signals that a person gave as a judgement; all others are behaviour that was taken for a thumb.
EXPLICIT = ("thumb", "rating", "vote")
# The largest models, raters and signals are named, the others counted together.
NAMED = 10
# Upper ends of the bins of completion length, in characters.
LENGTHS = (50, 200, 1000, 5000)
UNKNOWN = "not known"
OTHERS = "all others"

_DAY = 86_400_000_000
# The longest spans, in days, that are shown by days, weeks and months.
_DAYS, _WEEKS, _MONTHS = 21, 183, 1096
# All thumbs except duplicates: what people said. `e` is not null for those that became examples.
_SAID = (
    "thumbs t LEFT JOIN fates f ON f.number = t.number LEFT JOIN examples e ON e.number = t.number "
    f"WHERE coalesce(f.fate, '') NOT IN ('{Fate.DUPLICATE.value}', '{Fate.ANONYMOUS.value}')"
)
_COUNTS = (
    "coalesce(sum(t.desirable), 0), coalesce(sum(NOT t.desirable), 0), "
    "coalesce(sum(t.desirable AND e.number IS NOT NULL), 0), coalesce(sum(NOT t.desirable AND e.number IS NOT NULL), 0)"
)


@dataclass(frozen=True)
class Balance:
    """Thumbs of one kind, and the examples that they became.

    Attributes:
        name: of the kind.
        up: thumbs up.
        down: thumbs down.
        examples_up: desirable examples.
        examples_down: undesirable ones.
    """

    name: str
    up: int
    down: int
    examples_up: int
    examples_down: int


@dataclass(frozen=True)
class Ratio:
    """A share of thumbs up, with its 95 % interval (Wilson), and of what it is the share."""

    of: str
    up: int
    down: int
    share: Estimate


def balances(stage: Stage) -> dict[str, list[Balance]]:
    """The class balance over time, by length of the completion, by model, by rater and by signal."""
    unit, key = _unit(stage)
    length = "CASE " + " ".join(f"WHEN t.length < {end} THEN {place}" for place, end in enumerate(LENGTHS))
    names = [f"below {LENGTHS[0]:,}", *(f"{a:,} to {b - 1:,}" for a, b in itertools.pairwise(LENGTHS))]
    names.append(f"{LENGTHS[-1]:,} and above")
    by_length = _balance(stage, f"{length} ELSE {len(LENGTHS)} END")
    return {
        f"over time, by {unit} (UTC)": _balance(stage, key),
        "by length of the completion, in characters": [replace(row, name=names[int(row.name)]) for row in by_length],
        "by model": _largest(stage, "t.model"),
        "by rater": _largest(stage, "t.rater"),
        "by signal": _largest(stage, "t.signal"),
    }


def ratios(stage: Stage, recent_days: float) -> list[Ratio]:
    """The share of thumbs up that deployment will see, in several views, and that of the examples, last.

    Args:
        stage: settled.
        recent_days: days before the last explicit thumb that are taken for the near future.
    """
    explicit = f"t.signal IN ({', '.join(repr(name) for name in EXPLICIT)})"
    last = stage.query(f"SELECT max(t.time) FROM {_SAID} AND {explicit}")[0][0]
    found = []
    if last is not None:
        first = last - int(recent_days * _DAY)
        recent = _counts(stage, f"{_SAID} AND {explicit} AND t.time >= {first}")
        found.append(_ratio(f"thumbs that people gave, last {recent_days:g} days", recent))
    found.append(_ratio("thumbs that people gave, all", _counts(stage, f"{_SAID} AND {explicit}")))
    implicit = _counts(stage, f"{_SAID} AND NOT {explicit}")
    if sum(implicit):
        found.append(_ratio("implicit signals", implicit))
    kept = _counts(stage, "examples e JOIN thumbs t ON t.number = e.number")
    return [*found, _ratio("examples of the table", kept)]


def _ratio(of: str, counts: tuple[int, int]) -> Ratio:
    return Ratio(of, *counts, proportion_interval(counts[0], sum(counts)))


def _counts(stage: Stage, where: str) -> tuple[int, int]:
    up, total = stage.query(f"SELECT coalesce(sum(t.desirable), 0), count(*) FROM {where}")[0]
    return up, total - up


def _unit(stage: Stage) -> tuple[str, str]:
    """The unit of time that suits the span of the thumbs, and SQLite's expression for it."""
    first, last = stage.query("SELECT min(time), max(time) FROM thumbs")[0]
    span = 0 if first is None else (last - first) / _DAY
    seconds = "t.time / 1000000, 'unixepoch'"
    if span <= _DAYS:
        return "day", f"date({seconds})"
    if span <= _WEEKS:
        return "week, from its Monday", f"date({seconds}, 'weekday 0', '-6 days')"
    return ("month", f"strftime('%Y-%m', {seconds})") if span <= _MONTHS else ("year", f"strftime('%Y', {seconds})")


def _balance(stage: Stage, key: str) -> list[Balance]:
    """One row for each value of an SQL expression over thumbs, by value; what has none is last."""
    rows = stage.query(f"SELECT {key} AS key, {_COUNTS} FROM {_SAID} GROUP BY key ORDER BY key IS NULL, key")
    return [Balance(UNKNOWN if name is None else str(name), *counts) for name, *counts in rows]


def _largest(stage: Stage, column: str) -> list[Balance]:
    """One row for each of the largest values of a column, and one for all others."""
    rows = stage.query(
        f"SELECT {column} AS key, {_COUNTS} FROM {_SAID} GROUP BY key ORDER BY count(*) DESC, key LIMIT {NAMED}"
    )
    found = [Balance(UNKNOWN if name is None else str(name), *counts) for name, *counts in rows]
    total = stage.query(f"SELECT {_COUNTS} FROM {_SAID}")[0]
    rest = [whole - sum(part) for whole, part in zip(total, zip(*(row[1:] for row in rows), strict=True), strict=True)]
    return [*found, Balance(OTHERS, *rest)] if any(rest) else found
