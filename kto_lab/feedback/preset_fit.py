"""Whether a file is in the format of a tool, and how its rows are then read."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from kto_lab.errors import LabError
from kto_lab.feedback.layout import DEFAULT_COLUMNS, Settings
from kto_lab.feedback.paths import cell, from_root, opened, steps_of
from kto_lab.feedback.preset_rows import Row
from kto_lab.feedback.presets import PRESETS, Preset, Shape
from kto_lab.feedback.rows import Raw, Unreadable, readable

# So many rows are looked at: all of a tool's have the required columns.
_LOOKED_AT = 100


@dataclass(frozen=True)
class Found:
    """A format that rows seem to be in.

    Attributes:
        format: its name in `PRESETS`.
        shape: the shape of the rows.
        columns: the column that holds each field; of rows that are turned, before that.
    """

    format: str
    shape: Shape
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Fitted:
    """How the rows of a file are read.

    Attributes:
        raws: gives the rows from the beginning each time.
        settings: for `layout.layout`.
        rows_at: likewise.
        chat: likewise; None: as it was set.
    """

    raws: Callable[[], Iterable[Raw]]
    settings: Settings
    rows_at: str | None
    chat: Literal["all"] | None = None


def fit(
    format: str | None,
    settings: Settings,
    raws: Callable[[], Iterable[Raw]],
    *,
    rows_at: str | None,
    fields: Sequence[str],
    node: str,
    source: str,
) -> Fitted:
    """How a file is read in the format of a tool: its columns, where they are not set otherwise by hand.

    Args:
        format: one of `PRESETS`; None: as it is set.
        settings: what is set by hand. A column that is the default counts as not set.
        raws: gives the rows from the beginning each time.
        rows_at: see `layout.Layout`.
        fields: what the reader can map.
        node: the node of the configuration, for messages.
        source: where the rows come from, for messages.

    Raises:
        LabError: the format is not known, or the file is not in it; the message says which column says so.
    """
    if format is None:
        return Fitted(raws, settings, rows_at)
    preset = named(format, node)
    given = {name: column for name, column in settings["columns"].items() if column != DEFAULT_COLUMNS.get(name)}
    by_hand, rows_at = from_root({name: column for name, column in given.items() if column}, rows_at, node=node)
    rows = opened(raws, [*_roots(preset), *by_hand.values()], rows_at, node=node)
    first = [raw for _, raw in itertools.islice(readable(rows()), _LOOKED_AT)]
    # Where no row can be read, what is wrong with them is said as they are read.
    shape = _shape(preset, first, by_hand, format=format, node=node, source=source) if first else preset.shapes[0]
    if shape.turn is not None:
        rows = _turned(rows, shape.turn)
        first = [raw for _, raw in itertools.islice(readable(rows()), _LOOKED_AT)]
    columns: dict[str, str | None] = {
        name: _existing(names, first) or names.split("|")[0] for name, names in shape.columns.items()
    }
    columns |= {name: found for name, names in shape.optional.items() if (found := _existing(names, first))}
    columns |= {**by_hand, **{name: None for name, column in given.items() if column is None and name in columns}}
    columns = {name: column for name, column in columns.items() if name in fields}
    settled: dict[str, Any] = {**settings, "columns": columns}
    for key, value in [*shape.settings.items(), ("cut_at", preset.cut_at)]:
        if settled[key] is None:
            settled[key] = value
    ignored = [name for name in shape.settings.get("ignore", ()) if name not in columns.values()]
    settled["ignore"] = [*settings["ignore"], *ignored]
    return Fitted(rows, cast("Settings", settled), None, "all" if shape.chat else None)


def named(format: str, node: str) -> Preset:
    """The format of this name; LabError where there is none."""
    if format not in PRESETS:
        raise LabError(f"{node}.format is {format!r}; it must be null or one of {', '.join(PRESETS)}.")
    return PRESETS[format]


def looks_like(row: Mapping[str, Any] | None, node: str) -> str:
    """A sentence that offers the format which a row seems to be in; nothing where it seems to be in none."""
    found = next(formats_of([row]), None) if row is not None else None
    return "" if found is None else f" This looks like {PRESETS[found.format].tool}: {node}.format={found.format}."


def formats_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[Found]:
    """The formats that rows seem to be in, the most particular first.

    Args:
        rows: the first rows, one at least.
    """
    for format, preset in PRESETS.items():
        shape = next((shape for shape in preset.shapes if _unlike(shape, rows, {}) is None), None)
        if shape is not None:
            names = {**shape.columns, **shape.optional} if shape.needs is None else shape.needs
            found = {name: _existing(columns, rows) for name, columns in names.items()}
            yield Found(format, shape, {name: column for name, column in found.items() if column is not None})


def _roots(preset: Preset) -> Iterator[str]:
    """The columns of a tool's rows, and the beginnings of paths: by these its rows are known in an envelope."""
    for shape in preset.shapes:
        for names in (shape.needs or shape.columns).values():
            yield from (str(steps_of(name)[0]) for name in names.split("|"))


def _shape(
    preset: Preset, first: list[Row], by_hand: Mapping[str, str], *, format: str, node: str, source: str
) -> Shape:
    """The shape of these rows.

    Raises:
        LabError: it is none of the format's.
    """
    reasons = []
    for shape in preset.shapes:
        reason = _unlike(shape, first, by_hand)
        if reason is None:
            return shape
        reasons.append(reason)
    names = list(dict.fromkeys(name for row in first for name in row))
    raise LabError(
        f"{source} is not as {node}.format={format} has it ({preset.tool}): {'; or '.join(dict.fromkeys(reasons))}. "
        f"There are: {', '.join(map(str, names[:20])) or 'none'}. Columns of other names are set with {node}.columns."
        f"{looks_like(first[0], node)}"
    )


def _unlike(shape: Shape, rows: Sequence[Mapping[str, Any]], by_hand: Mapping[str, str]) -> str | None:
    """Which column says that rows are not of a shape; None where they are."""
    for name, names in (shape.needs or {**shape.columns, **by_hand}).items():
        if _existing(names, rows) is None:
            return f"there is no column {' or '.join(map(repr, names.split('|')))} for {name}"
    return shape.unlike(dict(rows[0])) if shape.unlike is not None else None


def _existing(names: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The first of several columns that a row has."""
    return next(
        (name for name in names.split("|") if any(name in row or cell(row, name) is not None for row in rows)), None
    )


def _turned(rows: Callable[[], Iterable[Raw]], turn: Callable[[Row], list[Row]]) -> Callable[[], Iterator[Raw]]:
    """Each row turned into rows, with their places."""

    def each() -> Iterator[Raw]:
        for where, raw in rows():
            if isinstance(raw, Unreadable):
                yield where, raw
                continue
            try:
                made = turn(raw)
            except ValueError as error:
                yield where, Unreadable(str(error))
                continue
            for number, row in enumerate(made, start=1):
                yield where if len(made) == 1 else f"{where}, pair {number}", row

    return each
