"""A study's tables: means and intervals over seeds, differences to a baseline, and what may be printed bold.

Bold is the best of a column (of one metric and one column value) where its difference to the baseline is significant at
5 % after Holm's correction over all comparisons of the table, and no seed of either is lacking: runs that fail are
often those that would have pulled the mean down. What is not there is said in its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from kto_lab.errors import LabError
from kto_lab.reports.comparisons import OVER_PROMPTS, OVER_SEEDS, Difference, difference, holm
from kto_lab.reports.frame import Group, check_metric, grouped, measured, of_metrics, plain
from kto_lab.reports.selection import Searches, search_spec, select
from kto_lab.reports.specs import FigureSpec, TableSpec, higher_is_better, label, shown
from kto_lab.reports.words import choice_label
from kto_lab.statistics import LEVEL

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Entry:
    """One number of a table.

    Attributes:
        group: the cells behind it; None where the study has no such cell.
        difference: to the baseline; None where it has none, or is the baseline.
        p_holm: adjusted over the table; None where there was no test.
        bold: best, and better than the baseline.
    """

    group: Group | None
    difference: Difference | None = None
    p_holm: float | None = None
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table, ready to be printed.

    Attributes:
        spec: what it was to show.
        rows: values of the row choices.
        columns: values of the column choice; one None where there is no such choice.
        entries: by row, column value and metric.
        caption: the specification's, and what the numbers are.
        decimals: of each metric.
    """

    spec: TableSpec
    rows: Sequence[Key]
    columns: Sequence[Any]
    entries: Mapping[tuple[Key, Any, str], Entry]
    caption: str
    decimals: Mapping[str, int]


@dataclass(frozen=True)
class Text:
    """An entry in words.

    Attributes:
        value: the mean, or "" where there is none.
        interval: "[low, high]", or "".
        note: what is lacking, or "".
        bold: whether the mean is.
    """

    value: str
    interval: str
    note: str
    bold: bool


def build(frame: pd.DataFrame, spec: TableSpec, folder: Path | None = None, searches: Searches | None = None) -> Table:
    """Make a table of a study.

    Args:
        frame: from `kto_lab.reports.load`.
        spec: what to show.
        folder: of the study, to pair by prompt with the scores that its runs keep; None pairs by seed alone.
        searches: as in `select`.

    Raises:
        LabError: the specification does not fit the study; the message says where.
    """
    what = f"table {spec.name}"
    selection = select(frame, spec, folder, searches)
    for metric in spec.metrics:
        check_metric(selection.frame, metric, what)
    split = [spec.columns] if spec.columns else []
    groups = grouped(of_metrics(selection.frame, spec.metrics), [*spec.rows, *split], what)
    rows = _in_order({key[: len(spec.rows)] for key in groups}, frame, spec.rows)
    columns = [key[0] for key in _in_order({key[-1:] for key in groups}, frame, split)] if split else [None]
    parts = {(key[: len(spec.rows)], key[-1] if split else None): part for key, part in groups.items()}
    entries = {
        (*place, metric): Entry(measured(part, metric, selection.scores, what))
        for place, part in parts.items()
        for metric in spec.metrics
    }
    empty = {(row, column, metric): Entry(None) for row in rows for column in columns for metric in spec.metrics}
    filled = _compared(empty | entries, spec)
    decimals = {metric: _decimals([e.group for (*_, m), e in filled.items() if m == metric]) for metric in spec.metrics}
    caption = [*([spec.caption.rstrip()] if spec.caption else []), *selection.notes, selection.listed]
    caption += _about_numbers(spec, filled, decimals)
    return Table(spec, rows, columns, filled, " ".join(filter(None, caption)), decimals)


def _in_order(found: set[Key], frame: pd.DataFrame, keys: Sequence[str]) -> list[Key]:
    """Values of choices in the order of the sweep; what is shown of a search begins with whatever it chose first."""
    every = dict.fromkeys(tuple(plain(value) for value in row) for row in frame[list(keys)].itertuples(index=False))
    return [key for key in every if key in found]


def build_search(
    frame: pd.DataFrame, spec: TableSpec | FigureSpec, folder: Path, searches: Searches | None = None
) -> Table:
    """Make the table of every setting that a search tried, with its value on both halves of the prompts.

    Args:
        frame: from `kto_lab.reports.load`.
        spec: of a table or figure with `choose`.
        folder: of the study.
        searches: as in `select`.

    Raises:
        LabError: as in `build`.
    """
    found = select(frame, spec, folder, searches).search
    assert found is not None
    return build(found.halves, search_spec(spec, found))


def text(table: Table, row: Key, column: Any, metric: str) -> Text:
    """An entry in words, at the metric's number of decimals."""
    entry, digits = table.entries[row, column, metric], table.decimals[metric]
    if entry.group is None:
        return Text("", "", "no such run", False)
    found = entry.group.mean.estimate
    note = _lacking(entry.group)
    if found.value is None:
        return Text("", "", note, False)
    interval = "" if found.low is None else f"[{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return Text(f"{found.value:.{digits}f}", interval, note, entry.bold)


def heading(table: Table, column: Any, metric: str) -> str:
    """What stands above a column of numbers."""
    if table.spec.columns is None:
        return label(metric)
    return f"{label(metric)}, {choice_label(table.spec.columns)} {shown(column)}"


def baseline_of(spec: TableSpec, row: Key, column: Any) -> tuple[Key, Any] | None:
    """The row and column value that an entry is compared with; None for the baseline itself, or without one."""
    if not spec.baseline:
        return None
    values = dict(zip(spec.rows, row, strict=True)) | ({spec.columns: column} if spec.columns else {})
    wanted = values | dict(spec.baseline)
    if wanted == values:
        return None
    return tuple(wanted[key] for key in spec.rows), wanted[spec.columns] if spec.columns else None


def _compared(entries: Mapping[tuple[Key, Any, str], Entry], spec: TableSpec) -> dict[tuple[Key, Any, str], Entry]:
    """The entries with their differences, adjusted p values, and what is bold."""
    differences: dict[tuple[Key, Any, str], Difference] = {}
    for (row, column, metric), entry in entries.items():
        place = baseline_of(spec, row, column)
        against = entries.get((*place, metric)) if place else None
        if entry.group and against and against.group and entry.group.outcomes and against.group.outcomes:
            differences[row, column, metric] = difference(against.group.outcomes, entry.group.outcomes)
    if spec.baseline and not any(baseline_of(spec, row, column) is None for row, column, _ in entries):
        named = ", ".join(f"{key}={shown(value)}" for key, value in spec.baseline.items())
        raise LabError(f"table {spec.name}: no cell of the study is the baseline {named}.")
    tests = {key: found.p for key, found in differences.items() if found.p is not None}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    best = _best(entries)
    found = {}
    for key, entry in entries.items():
        row, column, metric = key
        place, change = baseline_of(spec, row, column), differences.get(key)
        bold = (
            key in best
            and key in adjusted
            and place is not None
            and adjusted[key] <= 1 - LEVEL
            and _complete(entry)
            and _complete(entries[*place, metric])
            and change is not None
            and change.estimate.value is not None
            and (change.estimate.value > 0) == higher_is_better(metric)
        )
        found[key] = Entry(entry.group, change, adjusted.get(key), bold)
    return found


def _best(entries: Mapping[tuple[Key, Any, str], Entry]) -> set[tuple[Key, Any, str]]:
    """The best entries of each column, by their means; more than one where they tie."""
    by_column: dict[tuple[Any, str], dict[tuple[Key, Any, str], float]] = {}
    for key, entry in entries.items():
        value = entry.group.mean.estimate.value if entry.group else None
        if value is not None and higher_is_better(key[2]) is not None:
            by_column.setdefault(key[1:], {})[key] = value if higher_is_better(key[2]) else -value
    return {key for column in by_column.values() for key, value in column.items() if value == max(column.values())}


def _complete(entry: Entry) -> bool:
    return entry.group is not None and not entry.group.others


def _lacking(group: Group) -> str:
    """What became of cells that have no value: "2 of 3 seeds: 1 failed"; "failed" where all did."""
    if not group.others:
        return ""
    if not group.outcomes and len(group.others) == 1:
        return next(iter(group.others))
    reasons = ", ".join(f"{count} {status}" for status, count in group.others.items())
    return f"{len(group.outcomes)} of {group.planned} seeds: {reasons}"


def _decimals(groups: Sequence[Group | None]) -> int:
    """So many that an interval's half width has two figures; without intervals, that the largest value has three."""
    found = [group.mean.estimate for group in groups if group]
    halves = [(e.high - e.low) / 2 for e in found if e.high is not None and e.low is not None and e.high > e.low]
    if halves:
        return int(np.clip(1 - np.floor(np.log10(median(halves))), 0, 4))
    largest = max((abs(e.value) for e in found if e.value is not None), default=1.0)
    return int(np.clip(2 - np.floor(np.log10(largest)) if largest else 2, 0, 4))


def _about_numbers(
    spec: TableSpec, entries: Mapping[tuple[Key, Any, str], Entry], decimals: Mapping[str, int]
) -> list[str]:
    """The sentences of a caption that are on its numbers: over how many seeds and prompts, and what is bold."""
    groups = [entry.group for entry in entries.values() if entry.group]
    parts = []
    if any(group.mean.interval == OVER_SEEDS for group in groups):
        seeds = _range([len(group.outcomes) for group in groups if group.mean.interval == OVER_SEEDS])
        parts.append(f"Mean of {seeds} seeds with its 95 % interval over seeds (Student's t).")
    if any(group.mean.interval == OVER_PROMPTS for group in groups):
        parts.append("Where there is one seed, the 95 % interval is over the prompts of its run.")
    prompts: dict[str, list[int]] = {}
    for (*_, metric), entry in entries.items():
        if entry.group and entry.group.prompts:
            prompts.setdefault(metric, []).extend(entry.group.prompts)
    if prompts:
        parts.append(f"Prompts: {'; '.join(f'{label(metric)} {_range(n)}' for metric, n in prompts.items())}.")
    if spec.baseline:
        parts += _about_comparisons(spec, entries, decimals)
    lacking: dict[str, int] = {}
    for group in [e.group for (*_, m), e in entries.items() if m == spec.metrics[0] and e.group]:
        for status, count in group.others.items():
            lacking[status] = lacking.get(status, 0) + count
    if lacking:
        planned = sum(e.group.planned for (*_, m), e in entries.items() if m == spec.metrics[0] and e.group)
        parts.append(f"Of {planned} runs, " + ", ".join(f"{n} {status}" for status, n in lacking.items()) + ".")
    return parts


def _about_comparisons(
    spec: TableSpec, entries: Mapping[tuple[Key, Any, str], Entry], decimals: Mapping[str, int]
) -> list[str]:
    """The sentences of a caption that are on differences to the baseline."""
    named = ", ".join(f"{key}={shown(value)}" for key, value in (spec.baseline or {}).items())
    tests = {key: e.difference for key, e in entries.items() if e.difference and e.p_holm is not None}
    if not tests:
        return [f"Baseline: {named}. Nothing is tested: that takes two seeds."]
    by = " or ".join(dict.fromkeys(found.paired_by for found in tests.values() if found.paired_by))
    least = []
    for metric in spec.metrics:
        sizes = [d.detectable for (*_, m), d in tests.items() if m == metric and d.detectable is not None]
        ends = dict.fromkeys(f"{end:.{decimals[metric]}f}" for end in (min(sizes), max(sizes))) if sizes else {}
        least += [f"{label(metric)} {' to '.join(ends)}"] if ends else []
    return [
        f"Bold: the best of its column, better than the baseline {named} (t test paired by {by}, 5 % after Holm over "
        f"{len(tests)} comparisons)."
    ] + ([f"Smallest difference shown with 80 % power before Holm: {'; '.join(least)}."] if least else [])


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
