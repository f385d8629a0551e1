"""A study's tables: means and intervals over seeds and prompts, and differences to a baseline.

What is significantly better or worse than the baseline is marked where that comparison is a contrast which the study
named before its runs, after Holm's correction over these: see `kto_lab.reports.verdicts`. All other differences are
descriptive. A number whose setting was chosen on the edge of what was tried is marked, too. The last row is the base
policy, where its runs measured it. What is not there is said in its place.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import bounds, label, metric_of
from kto_lab.reports.comparisons import OVER_PROMPTS, OVER_SEEDS, OVER_SEEDS_AND_PROMPTS, Difference, difference
from kto_lab.reports.frame import Group, base_policy, check_metric, grouped, measured, of_metrics, plain
from kto_lab.reports.selection import EDGE_MARK, Searches, search_spec, select
from kto_lab.reports.specs import FigureSpec, TableSpec, shown
from kto_lab.reports.verdicts import Verdict
from kto_lab.reports.words import choice_words

Key = tuple[Any, ...]
# The row of the base policy; the values of its other row choices are None.
BASE = "base policy"
# What an interval over seeds is over, as a caption says it.
INTERVALS = {OVER_SEEDS_AND_PROMPTS: "over new seeds and new prompts", OVER_SEEDS: "over seeds, for these prompts"}


@dataclass(frozen=True)
class Entry:
    """One number of a table.

    Attributes:
        group: the cells behind it, with the edges of their setting; None where the study has no such cell.
        difference: to the baseline; None where it has none, is the baseline or the base policy.
        contrast: the study's contrast that this difference is; None where it is descriptive.
        mark: `verdicts.BETTER` or `verdicts.WORSE` than the baseline by that contrast, else None.
    """

    group: Group | None
    difference: Difference | None = None
    contrast: Verdict | None = None
    mark: str | None = None


@dataclass(frozen=True)
class Table:
    """A table, ready to be printed.

    Attributes:
        spec: what it was to show.
        rows: values of the row choices; that of the base policy begins with `BASE`.
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
        mark: as in `Entry`.
        edge: whether the setting lies on the edge of what was tried; then `selection.EDGE_MARK` stands at the mean.
    """

    value: str
    interval: str
    note: str
    mark: str | None = None
    edge: bool = False


def build(
    frame: pd.DataFrame,
    spec: TableSpec,
    folder: Path | None = None,
    searches: Searches | None = None,
    contrasts: Sequence[Verdict] = (),
) -> Table:
    """Make a table of a study.

    Args:
        frame: from `kto_lab.reports.load`.
        spec: what to show.
        folder: of the study, to pair by prompt with the scores that its runs keep; None pairs by seed alone.
        searches: as in `select`.
        contrasts: the study's, by which differences are marked.

    Raises:
        LabError: the specification does not fit the study; the message says where.
    """
    what = spec.what
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
    filled = _compared(empty | entries, spec, contrasts)
    if base := _base_row(selection.frame, spec, columns):
        rows = [*rows, (BASE, *[None] * (len(spec.rows) - 1))]
        filled |= {(rows[-1], column, metric): Entry(group) for (column, metric), group in base.items()}
    decimals = {
        metric: _decimals([e.group for (*_, m), e in filled.items() if m == metric], metric_of(metric).decimals)
        for metric in spec.metrics
    }
    caption = [*([spec.caption.rstrip()] if spec.caption else []), *selection.notes, selection.listed]
    caption += _about_numbers(spec, filled, decimals)
    return Table(spec, rows, columns, filled, " ".join(filter(None, caption)), decimals)


def _base_row(
    frame: pd.DataFrame, spec: TableSpec, columns: Sequence[Any]
) -> dict[tuple[Any, str], Group | None] | None:
    """The base policy by column value and metric; None where no run measured it."""
    found: dict[tuple[Any, str], Group | None] = {}
    for column in columns:
        part = frame
        if spec.columns:
            part = frame[[plain(value) == column for value in frame[spec.columns].tolist()]]
        found |= {(column, metric): base_policy(part, metric) for metric in spec.metrics}
    return found if any(found.values()) else None


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
        return Text("", "", "" if row[0] == BASE else "no such run")
    found = entry.group.mean.estimate
    note = _lacking(entry.group)
    if found.value is None:
        return Text("", "", note)
    interval = "" if found.low is None else f"[{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return Text(f"{found.value:.{digits}f}", interval, note, entry.mark, bool(entry.group.edges))


def marked(entry: Text, escape: Callable[[str], str], marks: Mapping[str, str]) -> str:
    """An entry's mean as its mark has it, with what says that its setting lies on an edge.

    Args:
        entry: of a table.
        escape: what makes text of the format.
        marks: `BETTER` and `WORSE` to how the format prints them, as "**{}**".
    """
    return marks.get(entry.mark or "", "{}").format(escape(entry.value)) + (escape(EDGE_MARK) if entry.edge else "")


def heading(table: Table, column: Any, metric: str) -> str:
    """What stands above a column of numbers."""
    if table.spec.columns is None:
        return label(metric)
    return f"{label(metric)}, {choice_words(table.spec.columns, column)}"


def baseline_of(spec: TableSpec, row: Key, column: Any) -> tuple[Key, Any] | None:
    """The row and column value that an entry is compared with; None for the baseline itself, for the base
    policy, or without one."""
    if not spec.baseline or row[0] == BASE:
        return None
    values = dict(zip(spec.rows, row, strict=True)) | ({spec.columns: column} if spec.columns else {})
    wanted = values | dict(spec.baseline)
    if wanted == values:
        return None
    return tuple(wanted[key] for key in spec.rows), wanted[spec.columns] if spec.columns else None


def _compared(
    entries: Mapping[tuple[Key, Any, str], Entry], spec: TableSpec, contrasts: Sequence[Verdict]
) -> dict[tuple[Key, Any, str], Entry]:
    """The entries with their differences, and what the study's contrasts say of these."""
    if spec.baseline and not any(baseline_of(spec, row, column) is None for row, column, _ in entries):
        named = ", ".join(f"{key}={shown(value)}" for key, value in spec.baseline.items())
        raise LabError(f"table {spec.name}: no cell of the study is the baseline {named}.")
    found = dict(entries)
    for (row, column, metric), entry in entries.items():
        place = baseline_of(spec, row, column)
        own, other = entry.group, entries[*place, metric].group if place and (*place, metric) in entries else None
        if own is None or other is None or not own.outcomes or not other.outcomes:
            continue
        change = difference(other.outcomes, own.outcomes, bounds(metric))
        searched = spec.choose is not None
        named_by = next((one for one in contrasts if one.is_of(own, other, metric, searched=searched)), None)
        mark = named_by.mark_of(own) if named_by else None
        found[row, column, metric] = Entry(own, change, named_by, mark)
    return found


def _lacking(group: Group) -> str:
    """What became of cells that have no value: "2 of 3 seeds: 1 failed"; "failed" where all did."""
    if not group.others:
        return ""
    if not group.outcomes and len(group.others) == 1:
        return next(iter(group.others))
    reasons = ", ".join(f"{count} {status}" for status, count in group.others.items())
    return f"{len(group.outcomes)} of {group.planned} seeds: {reasons}"


def _decimals(groups: Sequence[Group | None], declared: int | None) -> int:
    """As declared; else an interval's half width has two figures, or without intervals the largest value three."""
    if declared is not None:
        return declared
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
    parts = []
    groups = [entry.group for (row, *_), entry in entries.items() if entry.group and row[0] != BASE]
    over = {kind: [len(g.outcomes) for g in groups if g.mean.interval == kind] for kind in (*INTERVALS, OVER_PROMPTS)}
    for kind, words in INTERVALS.items():
        if over[kind]:
            metrics = list(
                dict.fromkeys(m for (*_, m), e in entries.items() if e.group and e.group.mean.interval == kind)
            )
            of = "" if len(spec.metrics) == len(metrics) else f" ({', '.join(map(label, metrics))})"
            parts.append(f"Mean of {_range(over[kind])} seeds with its 95 % interval {words}{of}.")
    if over[OVER_PROMPTS]:
        parts.append("Where there is one seed, the 95 % interval is over the prompts of its run.")
    if any(row[0] == BASE for row, *_ in entries):
        parts.append(f"The {BASE}: as recorded, with its interval over all of its prompts.")
    prompts: dict[str, list[int]] = {}
    for key, entry in entries.items():
        metric = key[-1]
        if entry.group and entry.group.prompts and key[0][0] != BASE:
            prompts.setdefault(metric, []).extend(entry.group.prompts)
    if prompts:
        parts.append(f"Prompts: {'; '.join(f'{label(metric)} {_range(n)}' for metric, n in prompts.items())}.")
    if spec.baseline:
        parts += _about_comparisons(spec, entries, decimals)
    cells = [e.group for (row, _, m), e in entries.items() if m == spec.metrics[0] and e.group and row[0] != BASE]
    lacking: dict[str, int] = {}
    for group in cells:
        for status, count in group.others.items():
            lacking[status] = lacking.get(status, 0) + count
    if lacking:
        parts.append(
            f"Of {sum(group.planned for group in cells)} runs, "
            + ", ".join(f"{n} {status}" for status, n in lacking.items())
            + "."
        )
    return parts


def _about_comparisons(
    spec: TableSpec, entries: Mapping[tuple[Key, Any, str], Entry], decimals: Mapping[str, int]
) -> list[str]:
    """The sentences of a caption that are on differences to the baseline."""
    named = ", ".join(choice_words(key, value) for key, value in (spec.baseline or {}).items())
    tests = {key: e for key, e in entries.items() if e.difference and e.difference.error is not None}
    if not tests:
        return [f"Baseline: {named}. Nothing is tested: that takes two seeds."]
    ways = [e.difference.paired_by for e in tests.values() if e.difference]
    by = " or ".join(dict.fromkeys(way for way in ways if way))
    parts = [f"Differences to the baseline {named} are paired by {by}."]
    contrasts = {e.contrast.contrast.name: e.contrast for e in tests.values() if e.contrast}
    if contrasts:
        count = next(iter(contrasts.values())).tests
        parts.append(
            f"Bold: better, italic: worse, at 5 % after Holm over the {count} contrasts that the study names, of which "
            f"{len(contrasts)} are here: {', '.join(contrasts)}. All other differences are descriptive."
        )
    else:
        parts.append("They are descriptive: the study names none of them as a contrast, and none is marked.")
    least = []
    distinct = len({_data(entries, spec, key) for key in tests})
    for metric in spec.metrics:
        found = [e.difference.detectable(distinct) for (*_, m), e in tests.items() if m == metric and e.difference]
        sizes = [size for size in found if size is not None]
        ends = dict.fromkeys(f"{end:.{decimals[metric]}f}" for end in (min(sizes), max(sizes))) if sizes else {}
        least += [f"{label(metric)} {' to '.join(ends)}"] if ends else []
    if least:
        parts.append(
            f"Smallest difference that would show with 80 % power, corrected for the {distinct} distinct comparisons "
            f"here: {'; '.join(least)}."
        )
    return parts


def _data(entries: Mapping[tuple[Key, Any, str], Entry], spec: TableSpec, key: tuple[Key, Any, str]) -> Hashable:
    """What tells a comparison from others: one whose runs gave the very same numbers is counted once."""
    row, column, metric = key
    place = baseline_of(spec, row, column)
    assert place is not None
    sides = [entries[row, column, metric].group, entries[*place, metric].group]
    return metric, tuple(side.numbers for side in sides if side)


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
