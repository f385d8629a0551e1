"""A record as columns: every leaf of it has a readable name, as the table in `kto_lab.studies.frame` says."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

# Sections of the metrics whose names need no prefix, and sections of a record that have columns of their own.
PLAIN = ("answers", "rewards", "lm_eval")
SHORT = ("metrics", "timings", "training", "peak_memory")
# What a row says in columns of its own.
NO_COLUMNS = ("status", "run_id")
# The last parts of a metric's place, and what they put behind its name.
ENDS = {"value": "", "trained": ""} | {
    end: f"_{end}" for end in ("low", "high", "n", "base", "difference", "detectable")
}

# The keys of each section of a record, with how many values come before them: two records with the same have the same
# places, value by value.
Shape: TypeAlias = tuple[tuple[Any, ...], ...]


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
        self._numbers: dict[Shape, int] = {}

    def of(self, record: Mapping[str, Any]) -> Found:
        """All of a record as columns."""
        values: list[Any] = [sum(record["timings"].values())]
        shape: list[tuple[Any, ...]] = []
        _gather({key: part for key, part in record.items() if key not in NO_COLUMNS}, values, shape)
        key = tuple(shape)
        if key not in self._numbers:
            self._numbers[key] = len(self.shapes)
            self.shapes.append(self._named(record))
        return Found(self._numbers[key], values)

    def _named(self, record: Mapping[str, Any]) -> list[str]:
        names, seen = ["seconds"], {"seconds"} | self._taken
        for key, part in record.items():
            for place in _places(part, (key,)) if key not in NO_COLUMNS else ():
                name = _name(place)
                names.append(".".join(place) if name in seen else name)
                seen.add(names[-1])
        return names


def _gather(node: Mapping[str, Any], values: list[Any], shape: list[tuple[Any, ...]]) -> None:
    """Add the value of every leaf below a section, and the keys of the section; an empty section is a leaf."""
    shape.append((len(values), *node))
    for value in node.values():
        kind = type(value)
        if kind is dict and value:
            _gather(value, values, shape)
        else:
            values.append(json.dumps(value) if kind is dict or kind is list else value)


def _places(node: Any, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The place of every leaf at or below a node, in the order of `_gather`."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _places(value, (*place, key))
    else:
        yield place


def _name(place: tuple[str, ...]) -> str:
    """The readable name of a place in a record."""
    section, *rest = place
    if section not in SHORT or not rest:
        return ".".join(place)
    if section == "timings":
        return ".".join(["seconds", *rest])
    if section == "peak_memory":
        return "peak_memory" if rest == ["process"] else "_".join([section, *rest])
    if section == "training":
        return ".".join(rest)
    names = rest[1:] if rest[0] in PLAIN else rest
    if rest[0] == "lm_eval" and len(rest) > 2:
        # lm_eval/base/task/metric/value: which policy it is comes first there, and elsewhere after the metric.
        names = [*rest[2:-1], rest[1], rest[-1]]
    ends: list[str] = []
    while len(names) > 1 and names[-1] in ENDS:
        ends.insert(0, ENDS[names.pop()])
    return ".".join(names) + "".join(ends)
