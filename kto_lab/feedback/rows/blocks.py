"""Blocks of consecutive rows: as rows, or as the columns that the file has them in.

Every row of a large file is read column by column where that gives the same, and else row by row.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from kto_lab.feedback.rows.raw import Raw, Unreadable

ROWS = 1024


class Block(Protocol):
    """Consecutive rows of a file."""

    def __len__(self) -> int:
        """How many rows it has, those that cannot be read included."""

    def raws(self) -> Iterable[Raw]:
        """The rows with their places."""

    def places(self) -> list[str]:
        """The places of the rows."""

    def column(self, name: str) -> list[Any] | None:
        """The values of a column; None where a row lacks it or cannot be read."""

    def initials(self, name: str) -> set[str] | None:
        """What the texts of a column begin with, "" for an empty one; None where a value is no text."""

    def texts(self, name: str) -> pa.Array | None:
        """A column of texts as Arrow has it; None where a value is no text, or none that UTF-8 can hold."""

    def unmapped(self, read: frozenset[str]) -> Iterator[dict[str, Any]]:
        """The rows that have other columns than these, in order, without these; all of them can be read."""

    def names(self) -> Iterable[str]:
        """The columns of all rows that can be read, in the order in which they come."""

    def unreadable(self) -> Iterator[tuple[str, Unreadable]]:
        """The rows that cannot be read."""


class Rows:
    """A block of rows that were read one by one."""

    def __init__(self, raws: list[Raw]) -> None:
        """Take the rows."""
        self._raws = raws

    def __len__(self) -> int:
        """See `Block`."""
        return len(self._raws)

    def raws(self) -> list[Raw]:
        """See `Block`."""
        return self._raws

    def places(self) -> list[str]:
        """See `Block`."""
        return [where for where, _ in self._raws]

    def column(self, name: str) -> list[Any] | None:
        """See `Block`."""
        try:
            return [raw[name] for _, raw in self._raws]  # type: ignore[index]
        except (KeyError, TypeError):
            return None

    def initials(self, name: str) -> set[str] | None:
        """See `Block`."""
        values = self.column(name)
        if values is None or set(map(type, values)) != {str}:
            return None
        return {value[:1] for value in values}

    def texts(self, name: str) -> pa.Array | None:
        """See `Block`."""
        values = self.column(name)
        if values is None or set(map(type, values)) != {str}:
            return None
        try:
            return pa.array(values, pa.string())
        except (UnicodeEncodeError, pa.ArrowException):  # half a character
            return None

    def unmapped(self, read: frozenset[str]) -> Iterator[dict[str, Any]]:
        """See `Block`."""
        if read.issuperset(self.names()):
            return
        for _, raw in self._raws:
            if not isinstance(raw, Unreadable) and not raw.keys() <= read:
                yield {name: value for name, value in raw.items() if name not in read}

    def names(self) -> dict[str, None]:
        """See `Block`."""
        rows = dict.fromkeys(tuple(raw) for _, raw in self._raws if type(raw) is dict)
        return dict.fromkeys(itertools.chain.from_iterable(rows))

    def unreadable(self) -> Iterator[tuple[str, Unreadable]]:
        """See `Block`."""
        for where, raw in self._raws:
            if isinstance(raw, Unreadable):
                yield where, raw


class Columns:
    """A block of rows that a file has as columns of texts, truths and numbers, all of which can be read."""

    def __init__(self, batch: pa.RecordBatch, places: Callable[[], list[str]]) -> None:
        """Take the columns, for which `plain_types` holds, and what gives the places."""
        self._batch, self._places = batch, places

    def __len__(self) -> int:
        """See `Block`."""
        rows: int = self._batch.num_rows
        return rows

    def raws(self) -> Iterator[Raw]:
        """See `Block`."""
        names = self._batch.schema.names
        columns = [column.to_pylist() for column in self._batch.columns]
        for where, row in zip(self._places(), zip(*columns, strict=True), strict=True):
            yield where, dict(zip(names, row, strict=True))

    def places(self) -> list[str]:
        """See `Block`."""
        return self._places()

    def column(self, name: str) -> list[Any] | None:
        """See `Block`."""
        values: list[Any] | None = self._batch.column(name).to_pylist() if name in self._batch.schema.names else None
        return values

    def initials(self, name: str) -> set[str] | None:
        """See `Block`."""
        if name not in self._batch.schema.names:
            return None
        column = self._batch.column(name)
        if column.null_count or not is_text(column.type):
            return None
        return set(pc.unique(pc.utf8_slice_codeunits(column, 0, 1)).to_pylist())

    def texts(self, name: str) -> pa.Array | None:
        """See `Block`."""
        column = self._batch.column(name) if name in self._batch.schema.names else None
        return column if column is not None and not column.null_count and is_text(column.type) else None

    def unmapped(self, read: frozenset[str]) -> Iterator[dict[str, Any]]:
        """See `Block`."""
        names = [name for name in self._batch.schema.names if name not in read]
        if names:
            for row in zip(*(self._batch.column(name).to_pylist() for name in names), strict=True):
                yield dict(zip(names, row, strict=True))

    def names(self) -> list[str]:
        """See `Block`."""
        names: list[str] = self._batch.schema.names
        return names if len(self) else []

    def unreadable(self) -> Iterator[tuple[str, Unreadable]]:
        """See `Block`."""
        yield from ()


def is_text(kind: pa.DataType) -> bool:
    """Whether Arrow's values of this type are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def plain_types(batch: pa.RecordBatch) -> bool:
    """Whether a batch holds nothing but texts, truths and numbers, in columns of different names."""
    types = pa.types
    return len(set(batch.schema.names)) == len(batch.schema.names) > 0 and all(
        is_text(kind)
        or types.is_boolean(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or kind == pa.null()
        for kind in batch.schema.types
    )


def in_blocks(raws: Iterable[Raw], rows: int = ROWS) -> Iterator[Rows]:
    """Rows in blocks. Those before an error come before it."""
    block: list[Raw] = []
    try:
        for raw in raws:
            block.append(raw)
            if len(block) == rows:
                yield Rows(block)
                block = []
    except Exception:
        if block:
            yield Rows(block)
        raise
    if block:
        yield Rows(block)


def raws_of(blocks: Iterable[Block]) -> Iterator[Raw]:
    """The rows of blocks."""
    for block in blocks:
        yield from block.raws()


def all_readable_of(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks; LabError at the first row that cannot be read."""
    for block in blocks:
        for where, raw in block.unreadable():
            raise raw.error(where)
        yield block
