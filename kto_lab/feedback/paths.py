"""Paths into nested rows: `input.messages`, `annotations[0].value`, `$.data[*].trace.output`.

A step is a key after a dot, the number of an element in brackets (from the end where it is negative), or `[*]` for all
elements. A cell that spells an object or a list as JSON is stepped into like one. A column that is really called
`a.b` is that column, not a path.

Readers of mapped columns do not know of paths: a row is opened along the paths that are mapped, so that what each of
them leads to is a column of its own, and so is what lies beside it, which nothing reads and which is reported as such.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from kto_lab.errors import LabError
from kto_lab.feedback.messages import decoded
from kto_lab.feedback.rows import Block, Raw, Unreadable, in_blocks, raws_of, readable

# A key, the number of an element, or ALL.
Step: TypeAlias = str | int
Steps: TypeAlias = tuple[Step, ...]

ROOT, ALL = "$", "[*]"
_PATH = re.compile(r"(\.?[^.\[\]]+|\[(?:-?\d+|\*)\])+")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?\d+|\*)\]")
# What tools and APIs call the list of rows in a file that is one object, and how deep it is looked for.
_LISTS = {"data", "rows", "items", "results", "records", "examples", "entries", "feedback", "hits"}
_DEEPEST = 2


def steps_of(path: str) -> Steps:
    """The steps of a path; the whole text as one step where it is none."""
    if not _PATH.fullmatch(path):
        return (path,)
    return tuple(key or (ALL if index == "*" else int(index)) for key, index in _STEP.findall(path))


def from_root(columns: Mapping[str, str], rows_at: str | None, *, node: str) -> tuple[dict[str, str], str | None]:
    """Columns as paths within a row, and the path of the list of rows, where columns begin at the root of the file.

    Args:
        columns: the column of each field; `$.data[*].text` is `text` of each element of `data`.
        rows_at: the path of the list of rows as it was set.
        node: the node of the configuration, for the error.

    Raises:
        LabError: two columns, or a column and `rows_at`, name different lists.
    """
    within: dict[str, str] = {}
    lists = {} if rows_at is None else {"rows_at": _below(rows_at)}
    for field, column in columns.items():
        within[field] = column
        if column.startswith((f"{ROOT}.", f"{ROOT}[")):
            before, each, after = column.partition(ALL)
            within[field] = _below(after if each else column)
            if each and _below(before):
                lists[f"columns.{field}"] = _below(before)
    if len(set(lists.values())) > 1:
        named = " and ".join(f"{node}.{key} ({path})" for key, path in lists.items())
        raise LabError(f"{named} begin at different lists. The rows of a file are in one list: name the same in each.")
    return within, next(iter(lists.values()), None)


def opened(
    raws: Callable[[], Iterable[Raw]], columns: Sequence[str], rows_at: str | None, *, node: str
) -> Callable[[], Iterator[Raw]]:
    """Rows in which every mapped path is a column.

    Args:
        raws: gives the rows from the beginning each time.
        columns: what is read of a row, by name or by path.
        rows_at: the path of the list of rows in each raw row; None: looked for, see `envelope`.
        node: the node of the configuration, for messages.
    """
    nested = {path: steps for path in columns if len(steps := steps_of(path)) > 1}

    def each() -> Iterator[Raw]:
        rows = iter(raws())
        at = rows_at
        if at is None:
            for where, raw in rows:
                if isinstance(raw, Unreadable):
                    yield where, raw
                    continue
                at = envelope(raw, columns)
                rows = itertools.chain([(where, raw)], rows)
                break
        if at is None and not nested:
            yield from rows
            return
        for where, raw in rows:
            if isinstance(raw, Unreadable):
                yield where, raw
                continue
            for place, row in [(where, raw)] if at is None else _elements(where, raw, at, node):
                yield place, row if not nested or isinstance(row, Unreadable) else open_row(row, nested)

    return each


def opened_blocks(
    blocks: Callable[[], Iterable[Block]], columns: Sequence[str], rows_at: str | None, *, node: str
) -> Callable[[], Iterable[Block]]:
    """As `opened`, in blocks: those of the source as they are, where no row has to be opened."""
    if rows_at is None and all(len(steps_of(path)) == 1 for path in columns):
        first = next((raw for _, raw in readable(raws_of(blocks()))), None)
        if first is None or envelope(first, columns) is None:
            return blocks
    rows = opened(lambda: raws_of(blocks()), columns, rows_at, node=node)
    return lambda: in_blocks(rows())


def open_row(row: Mapping[str, Any], nested: Mapping[str, Steps]) -> dict[str, Any]:
    """A row in which what each path leads to is a column, and so is what lies beside it.

    Args:
        row: the row.
        nested: paths of two steps and more, with their steps.
    """
    wanted: dict[Step, list[Steps]] = {}
    for path, steps in nested.items():
        if path not in row:
            wanted.setdefault(steps[0], []).append(steps[1:])
    columns: dict[str, Any] = {}
    for name, value in row.items():
        _open(columns, name, value, wanted.get(name, [()]))
    return columns


def value_at(value: Any, steps: Steps) -> Any:
    """What steps lead to; None where there is nothing."""
    for number, step in enumerate(steps):
        value = decoded(value)
        if step == ALL:
            return [value_at(one, steps[number + 1 :]) for one in value] if isinstance(value, list) else None
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and -len(value) <= step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, Mapping) else None
    return value


def cell(row: Mapping[str, Any], column: str) -> Any:
    """What a row holds in a column, by name or by path; None where there is nothing."""
    return row[column] if column in row else value_at(row, steps_of(column))


def envelope(raw: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """The path of the one list in a raw row, under a usual name, of objects with these columns; None: it is a row.

    Args:
        raw: the raw row.
        columns: what is read of a row; one that the raw row has makes it a row.
    """
    if _has_one(raw, columns):
        return None
    found = [path for path, first in _lists(raw, "", _DEEPEST) if _has_one(first, columns)]
    return found[0] if len(found) == 1 else None


def _has_one(row: Mapping[str, Any], columns: Sequence[str]) -> bool:
    return any(column in row or cell(row, column) is not None for column in columns)


def _lists(value: Any, path: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The lists of objects under a value, with the first object of each."""
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        below = f"{path}.{name}" if path else str(name)
        if isinstance(inner, list) and inner and isinstance(inner[0], Mapping) and name in _LISTS:
            yield below, inner[0]
            # An API may wrap each row once more: {"rows": [{"row_idx": 0, "row": {...}}]}.
            yield from ((f"{below}{ALL}.{key}", one) for key, one in inner[0].items() if isinstance(one, Mapping))
        elif depth > 1:
            yield from _lists(inner, below, depth - 1)


def _elements(where: str, raw: Mapping[str, Any], at: str, node: str) -> Iterator[Raw]:
    """The rows in an envelope, with their places."""
    found = value_at(raw, steps_of(at))
    if not isinstance(found, list):
        keys = ", ".join(map(str, list(raw)[:20]))
        yield where, Unreadable(f"there is no list of rows at {at!r}, only {keys}", f"Set {node}.rows_at to its path.")
        return
    before, each, after = at.partition(ALL)
    for number, row in enumerate(found):
        place = f"{where}, {before}[{number}]{after if each else ''}"
        yield place, row if isinstance(row, dict) else Unreadable("no object", 'Write a row as {"prompt": ...}.')


def _open(columns: dict[str, Any], name: str, value: Any, wanted: list[Steps]) -> None:
    """Put a value into columns: whole, or where steps lead into it, each of its parts."""
    further = [steps for steps in wanted if steps]
    if len(further) < len(wanted):
        columns[name] = value
    if not further:
        return
    value = decoded(value)
    if any(steps[0] == ALL for steps in further) and isinstance(value, list):
        for steps in further:
            columns[name + _written(steps)] = value_at(value, steps)
        return
    parts = _parts(value, further)
    if not parts and len(further) == len(wanted):
        # There is nothing in it: it stays what it is.
        columns[name] = value
    for step, part in parts:
        below = [steps[1:] for steps in further if steps[0] == step]
        _open(columns, name + _written((step,)), part, below or [()])


def _parts(value: Any, further: list[Steps]) -> list[tuple[Step, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if not isinstance(value, list):
        return []
    # An element is called as it is mapped: from the beginning or from the end.
    mapped = {
        steps[0] % len(value): steps[0] for steps in further if isinstance(steps[0], int) and _is_in(steps, value)
    }
    return [(mapped.get(number, number), part) for number, part in enumerate(value)]


def _is_in(steps: Steps, value: list[Any]) -> bool:
    return isinstance(steps[0], int) and -len(value) <= steps[0] < len(value)


def _written(steps: Steps) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else step if step == ALL else f".{step}" for step in steps)


def _below(path: str) -> str:
    """A path without the root."""
    return path.removeprefix(ROOT).removeprefix(".")
