"""What became of the contrasts that a study named: confirmed, refuted or open.

A contrast is tested by its difference, paired as in `kto_lab.reports.comparisons`, and Holm's correction runs over the
contrasts of the study, which are few. A contrast that is another one turned round, or whose runs gave the very same
numbers, is the same test and counts once.

- For `greater` (`less`) with a margin the two-sided test is of a difference equal to the margin: significantly beyond
  it confirms, significantly short of it refutes.
- For `equal` the interval must lie within the margin on both sides to confirm (two one-sided tests, each at half of
  the level), and outside of it to refute.

Whatever the numbers say, a contrast stays open where a run is lacking (runs that fail are often those that would have
pulled the mean down), where a setting that was chosen lies on the edge of what was tried (a better one may lie past
it), and where there is no test.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kto_lab.evaluation.metrics import bounds, higher_is_better, is_declared, metric_of
from kto_lab.reports.comparisons import Difference, difference, holm
from kto_lab.reports.frame import DONE, Group, check_metric, grouped, measured, of_metrics, plain
from kto_lab.reports.selection import Searches, select
from kto_lab.reports.specs import shown
from kto_lab.statistics import LEVEL
from kto_lab.sweeps.contrasts import EQUAL, GREATER, Contrast, check_direction, matches
from kto_lab.sweeps.manifest import StudyFolder

CONFIRMED, REFUTED, OPEN = "confirmed", "refuted", "open"
BETTER, WORSE = "better", "worse"


@dataclass(frozen=True)
class Verdict:
    """What a study says of one of its contrasts; all that a page needs to show it.

    Attributes:
        contrast: what was compared, and what was expected.
        verdict: `CONFIRMED`, `REFUTED` or `OPEN`.
        reason: why it is open; "" where it is not.
        difference: `of` - `against` with its 95 % interval, which is not corrected; None where a side has no run.
        p: two-sided, of the margin; None where there was no test.
        p_holm: corrected over the contrasts of the study.
        tests: how many Holm's correction ran over.
        detectable: the true difference that this experiment shows with 80 % power after the correction.
        mark: `BETTER` or `WORSE` where `of` is significantly so than `against` after the correction; else None.
        of: the cells of the one side; None where the study has none.
        against: those of the other.
        finished: how many of the study's runs were finished when the contrast was named. Above 0 it was named when
            results could have been seen, and a page says so.
    """

    contrast: Contrast
    verdict: str
    reason: str
    difference: Difference | None
    p: float | None
    p_holm: float | None
    tests: int
    detectable: float | None
    mark: str | None
    of: Group | None
    against: Group | None
    finished: int = 0

    def is_of(self, group: Group, against: Group, metric: str, *, searched: bool) -> bool:
        """Whether a comparison of a table, which shows what a search chose or not, is this contrast or its reverse."""
        if metric != self.contrast.metric or searched != (self.contrast.choose is not None):
            return False
        return {group.runs, against.runs} == {side.runs for side in (self.of, self.against) if side}

    def mark_of(self, group: Group) -> str | None:
        """How one side of the contrast compares with the other."""
        if self.mark is None or (self.of is not None and group.runs == self.of.runs):
            return self.mark
        return WORSE if self.mark == BETTER else BETTER


@dataclass(frozen=True)
class _Compared:
    """A contrast before the correction."""

    contrast: Contrast
    of: Group | None
    against: Group | None
    difference: Difference | None
    p: float | None


def verdicts(
    frame: pd.DataFrame,
    contrasts: Sequence[Contrast],
    folder: Path | None = None,
    searches: Searches | None = None,
    finished: Sequence[int] | None = None,
) -> list[Verdict]:
    """The verdict on each contrast, in order.

    Args:
        frame: from `kto_lab.reports.load`.
        contrasts: of the study.
        folder: of the study, to pair by prompt with the scores that its runs keep; None pairs by seed alone.
        searches: as in `kto_lab.reports.selection.select`.
        finished: how many runs were finished when each was named; None for none.

    Raises:
        LabError: a contrast names what the study does not have, or a metric that has no better side.
    """
    compared = [_compare(frame, one, folder, searches) for one in contrasts]
    tested = {place: _test_of(one) for place, one in enumerate(compared) if one.p is not None}
    p_values: dict[Hashable, float] = {}
    for place, test in tested.items():
        p_values.setdefault(test, compared[place].p or 0.0)
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    counts = finished or [0] * len(contrasts)
    return [
        _verdict(one, adjusted[tested[place]] if place in tested else None, len(adjusted), count)
        for place, (one, count) in enumerate(zip(compared, counts, strict=True))
    ]


def finished_before(study: StudyFolder, nodes: Sequence[Mapping[str, object]], frame: pd.DataFrame) -> list[int]:
    """How many runs were finished when each contrast was named; one that no sweep has seen was named just now."""
    done = int((frame["status"] == DONE).sum())
    return [next((count for known, count in study.named if known == node), done) for node in nodes]


def _compare(frame: pd.DataFrame, one: Contrast, folder: Path | None, searches: Searches | None) -> _Compared:
    """The difference of a contrast's sides, with the p value of its margin."""
    if is_declared(metric_of(one.metric).name):
        check_direction(one)
    there = {key: {plain(value) for value in frame[key].tolist()} for key in one.keys if key in frame}
    lost = [side for side in (one.of, one.against) if any(side[key] not in there.get(key, ()) for key in side)]
    if lost or not _meeting(frame, one.where or {}):
        # The study's file has them: the sweep was narrowed on its command line.
        return _Compared(one, None, None, None, None)
    selection = select(frame, one, folder, searches)
    check_metric(selection.frame, one.metric, one.what)
    # Of others only the records of runs tell.
    if (selection.frame["status"] == DONE).any():
        check_direction(one)
    wanted = [tuple(side[key] for key in one.keys) for side in (one.of, one.against)]
    rows = [tuple(map(plain, row)) in wanted for row in selection.frame[list(one.keys)].itertuples(index=False)]
    parts = grouped(of_metrics(selection.frame[np.array(rows)], [one.metric]), list(one.keys), one.what)
    of, against = (
        measured(parts[key], one.metric, selection.scores, one.what) if key in parts else None for key in wanted
    )
    if not (of and against and of.outcomes and against.outcomes):
        return _Compared(one, of, against, None, None)
    found = difference(against.outcomes, of.outcomes, bounds(one.metric))
    return _Compared(one, of, against, found, _p(one, found))


def _meeting(frame: pd.DataFrame, where: Mapping[str, Any]) -> bool:
    """Whether some cell has these values, as far as they are of choices that there are."""
    kept = np.ones(len(frame), dtype=bool)
    for key in where.keys() & set(frame.columns):
        kept &= np.array([matches({key: plain(value)}, {key: where[key]}) for value in frame[key].tolist()])
    return bool(kept.any())


def _boundary(one: Contrast, value: float) -> float:
    """What the difference is tested against: the margin on the side that is expected, or nearest to the difference."""
    if one.expect == EQUAL:
        return one.margin if value >= 0 else -one.margin
    return one.margin if one.expect == GREATER else -one.margin


def _p(one: Contrast, found: Difference) -> float | None:
    """Two-sided, of the margin; for `equal` of its nearer end, which an interval reaches past first."""
    return None if found.estimate.value is None else found.p_from(_boundary(one, found.estimate.value))


def _test_of(one: _Compared) -> Hashable:
    """What tells a test from others: the numbers of both sides, and what their difference is tested against."""
    assert one.of and one.against and one.difference and one.difference.estimate.value is not None
    sides = [side.numbers for side in (one.against, one.of)]
    boundary, kind = _boundary(one.contrast, one.difference.estimate.value), one.contrast.expect == EQUAL
    if sides[0] > sides[1]:
        sides, boundary = sides[::-1], -boundary
    return one.contrast.metric, kind, boundary, tuple(sides)


def _verdict(one: _Compared, p_holm: float | None, tests: int, finished: int) -> Verdict:
    """The verdict, when it is known how surely."""
    verdict, reason, mark = OPEN, _why_open(one, p_holm), None
    if not reason:
        assert one.difference is not None and one.difference.estimate.value is not None
        value, expect = one.difference.estimate.value, one.contrast.expect
        boundary = _boundary(one.contrast, value)
        beyond = abs(value) < one.contrast.margin if expect == EQUAL else (value > boundary) == (expect == GREATER)
        verdict = CONFIRMED if beyond else REFUTED
        # That a difference falls short of a margin says nothing of its sign.
        if boundary == 0 or beyond != (expect == EQUAL):
            mark = BETTER if (value > 0) == higher_is_better(one.contrast.metric) else WORSE
    return Verdict(
        contrast=one.contrast,
        verdict=verdict,
        reason=reason,
        difference=one.difference,
        p=one.p,
        p_holm=p_holm,
        tests=tests,
        detectable=one.difference.detectable(max(tests, 1)) if one.difference else None,
        mark=mark,
        of=one.of,
        against=one.against,
        finished=finished,
    )


def _why_open(one: _Compared, p_holm: float | None) -> str:
    """Why a contrast is open; "" where it is decided."""
    sides = {"of": one.of, "against": one.against}
    if absent := [name for name, side in sides.items() if side is None]:
        return f"the sweep has no such runs ({' and '.join(absent)})"
    lacking = [side for side in sides.values() if side and side.others]
    if lacking or one.difference is None:
        states: dict[str, int] = {}
        for side in lacking:
            for state, count in side.others.items():
                states[state] = states.get(state, 0) + count
        planned = sum(side.planned for side in sides.values() if side)
        return f"of {planned} runs " + ", ".join(f"{count} {state}" for state, count in states.items())
    if edges := [f"{_side(one, name)}: {', '.join(side.edges)}" for name, side in sides.items() if side and side.edges]:
        return f"chosen on the edge of what was tried, past which there may be a better one ({'; '.join(edges)})"
    if p_holm is None:
        return "one seed is no evidence on methods" if one.difference.estimate.n < 2 else "nothing varies"
    return "" if p_holm <= 1 - LEVEL else "the data bear out neither"


def _side(one: _Compared, name: str) -> str:
    values = one.contrast.of if name == "of" else one.contrast.against
    return " ".join(shown(value) for value in values.values())
