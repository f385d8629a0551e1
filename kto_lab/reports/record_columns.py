"""A record as columns: every leaf of it has a readable name, as the table in `kto_lab.reports.frame` says."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias

import orjson

from kto_lab.errors import LabError
from kto_lab.runs.columns import column

# What a row says in columns of its own, and what is said of metrics rather than of the run.
NO_COLUMNS = ("status", "run_id", "identity", "declared", "checksums")
# Sections of numbers alone, and how numbers of the section "training" end.
MEASURED = ("metrics", "seeds", "timings", "peak_memory")
COUNTED = ("steps", "_seen", "_available")
# What a number may be as JSON has it: null is none, and an empty section has none.
NUMBERS = {int, float, type(None), dict}
# Of a value in a record: the keys on the way.
Place: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What a record holds.

    Attributes:
        shape: number of its shape, a place in `Columns.shapes`.
        values: of the columns of that shape.
    """

    shape: int
    values: Sequence[Any]


class Columns:
    """What the columns of records are called. Most records of a study have one shape, so it is thought out once.

    Attributes:
        shapes: the columns of each shape, in the order in which the shapes came up.
    """

    def __init__(self, taken: set[str]) -> None:
        """`taken`: names that are a choice's or another's; a short name gives way to the dotted place."""
        self.shapes: list[list[str]] = []
        self._taken = taken
        self._layouts: list[_Layout] = []
        # Outline of a record to the layouts that such records had.
        self._alike: dict[tuple[int, ...], list[int]] = {}

    def of(self, record: Mapping[str, Any]) -> Found:
        """All of a record as columns."""
        seconds = sum(record["timings"].values())
        alike = self._alike.setdefault(_outline(record), [])
        for number in alike:
            if (values := self._layouts[number].values(record)) is not None:
                return Found(number, [seconds, *values])
        layout = _Layout(record)
        values = layout.values(record)
        assert values is not None
        alike.append(len(self._layouts))
        self._layouts.append(layout)
        self.shapes.append(self._named(layout.places))
        return Found(alike[-1], [seconds, *values])

    def _named(self, places: Sequence[Place]) -> list[str]:
        names, seen = ["seconds"], {"seconds"} | self._taken
        for place in places:
            name = column(place)
            names.append(".".join(place) if name in seen else name)
            seen.add(names[-1])
        return names


class _Layout:
    """Which sections a record has, with which keys, and which of its leaves are lists; an empty section is a leaf.

    Thousands of records have the same. So they are taken apart by a row that begins with the record: each section adds
    its values at the end, whole sections among them, whose turn then comes.

    Attributes:
        places: of the leaves, as they stand in the record.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        """The layout of this record."""
        row: list[Any] = [record]
        at: list[Place] = [()]
        # Place of a section in the row, what takes all its values, and how many these are.
        self._sections: list[tuple[int, Callable[[Any], Iterable[Any]], int]] = []
        # The row grows while it is gone through.
        for place, node in enumerate(row):
            if type(node) is dict and node:
                self._sections.append((place, _taking(list(node)), len(node)))
                row += node.values()
                at += [(*at[place], key) for key in node]
        # Leaves that are no plain values.
        self._lists = [place for place, node in enumerate(row) if type(node) is list]
        self._empty = [place for place, node in enumerate(row) if type(node) is dict and not node]
        where = {one: place for place, one in enumerate(at)}
        self.places = [one for one in _leaves(record, ()) if one[0] not in NO_COLUMNS]
        self._take = _taking([where[one] for one in self.places])
        spelled = {*self._lists, *self._empty}
        self._numbers = [(one, where[one]) for one in self.places if _is_number(one)]
        self._spelled = [number for number, one in enumerate(self.places) if where[one] in spelled]

    def values(self, record: Mapping[str, Any]) -> list[Any] | None:
        """The leaves of a record; None where it is laid out otherwise.

        Raises:
            LabError: something else stands where reports reckon with a number.
        """
        row: list[Any] = [record]
        try:
            for place, take, size in self._sections:
                node = row[place]
                if len(node) != size:
                    return None
                row += take(node)
        except (KeyError, TypeError):
            return None
        kinds = list(map(type, row))
        if kinds.count(dict) != len(self._sections) + len(self._empty) or kinds.count(list) != len(self._lists):
            return None
        if any(kinds[place] is not list for place in self._lists) or any(row[place] != {} for place in self._empty):
            return None
        if not NUMBERS.issuperset([kinds[place] for _, place in self._numbers]):
            name, value = next((".".join(one), row[at]) for one, at in self._numbers if kinds[at] not in NUMBERS)
            raise LabError(f"{name} of its record is {value!r}, which is no number. Put back the record, or run again.")
        values = list(self._take(row))
        for number in self._spelled:
            values[number] = _text(orjson.dumps(values[number]))
        return values


def _is_number(place: Place) -> bool:
    """Whether reports reckon with what stands in a place of a record."""
    return place[0] in MEASURED or (place[0] == "training" and place[-1].endswith(COUNTED))


def _taking(keys: Sequence[Any]) -> Callable[[Any], Iterable[Any]]:
    """What takes the values of these keys, in one go."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda node: [node[key] for key in keys]


def _outline(record: Mapping[str, Any]) -> tuple[int, ...]:
    """How many values the upper sections have, which tells most layouts apart."""
    parts = [part for part in record.values() if type(part) is dict]
    return tuple([len(node) for part in parts for node in part.values() if type(node) is dict])


def _leaves(node: Any, place: Place) -> Iterator[Place]:
    """The place of every leaf at or below a node."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, (*place, key))
    else:
        yield place


@lru_cache(maxsize=1 << 10)
def _text(value: bytes) -> str:
    """JSON, spelled with blanks."""
    return json.dumps(orjson.loads(value))
