"""Rows of Arrow's formats: Parquet, and Arrow itself (Feather), as a file or as a stream."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kto_lab.errors import LabError
from kto_lab.feedback.rows.blocks import ROWS, Block, Columns, Rows, is_text, plain_types
from kto_lab.feedback.rows.opening import Opened
from kto_lab.feedback.rows.raw import Unreadable


def read_parquet(opened: Opened) -> Iterator[Block]:
    """The rows of a file; "votes.parquet, row 3"."""

    @contextmanager
    def batches() -> Iterator[Iterable[pa.RecordBatch]]:
        with pq.ParquetFile(opened.seekable(), page_checksum_verification=True) as reader:
            rows = reader.metadata.num_rows
            if rows > opened.reading.most(opened.size):
                raise opened.reading.too_many(opened.file, opened.size, f"{rows:,}")
            yield _counted(reader.iter_batches(batch_size=ROWS), rows, opened)

    yield from _blocks(opened, batches, "Parquet")


def read_arrow(opened: Opened) -> Iterator[Block]:
    """The rows of a file; "votes.arrow, row 3"."""

    @contextmanager
    def batches() -> Iterator[Iterable[pa.RecordBatch]]:
        where = opened.seekable()
        with pa.memory_map(str(where)) if isinstance(where, Path) else pa.PythonFile(where) as source:
            yield _batches(source, opened)

    yield from _blocks(opened, batches, "Arrow")


def _counted(batches: Iterable[pa.RecordBatch], rows: int, opened: Opened) -> Iterator[pa.RecordBatch]:
    number = 0
    for batch in batches:
        number += batch.num_rows
        opened.share = number / rows
        yield batch


def _batches(source: pa.NativeFile, opened: Opened) -> Iterator[pa.RecordBatch]:
    if source.read(6) == b"ARROW1":
        source.seek(0)
        reader = pa.ipc.open_file(source)
        found: Iterable[pa.RecordBatch] = map(reader.get_batch, range(reader.num_record_batches))
    else:
        source.seek(0)
        found = pa.ipc.open_stream(source)
    size = source.size()
    for batch in found:
        opened.share = source.tell() / size
        for start in range(0, batch.num_rows, ROWS):
            yield batch.slice(start, ROWS)


def _blocks(opened: Opened, batches: Any, kind: str) -> Iterator[Block]:
    number = 0
    try:
        with batches() as found:
            for batch in found:
                block = _block(batch, f"{opened.place}, row ", number + 1)
                number += batch.num_rows
                yield block
    except (pa.ArrowException, OSError) as error:
        if not number:
            raise LabError(f"{opened.file} is no readable {kind} file: {error}. Get the file again.") from error
        detail = f"damaged {kind}; the rest was not read"
        yield Rows([(f"{opened.place}, row {number + 1}", Unreadable(detail, "Get the file again.", last=True))])


def _block(batch: pa.RecordBatch, place: str, first: int) -> Block:
    """A batch as a block whose first row has this number."""

    def places() -> list[str]:
        return [f"{place}{number}" for number in range(first, first + batch.num_rows)]

    if plain_types(batch) and _is_utf8(batch):
        return Columns(batch, places)
    rows = [Unreadable("a value that cannot be read") if row is None else row for row in _python(batch)]
    return Rows(list(zip(places(), rows, strict=True)))


def _is_utf8(batch: pa.RecordBatch) -> bool:
    try:
        for column in batch.columns:
            if is_text(column.type):
                column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _python(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The rows of a batch; None for one whose values Python cannot hold."""
    names = batch.schema.names
    try:
        columns = [_values(column) for column in batch.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    except (pa.ArrowException, ValueError, OverflowError):
        if batch.num_rows == 1:
            return [None]
    return [row for number in range(batch.num_rows) for row in _python(batch.slice(number, 1))]


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
    # Python has no nanoseconds.
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    values: list[Any] = column.to_pylist()
    return [_absent_left_out(value) for value in values] if pa.types.is_nested(kind) else values


def _absent_left_out(value: Any) -> Any:
    """A nested value without keys that are null: a column has each key of any of its objects in all of them."""
    if isinstance(value, dict):
        return {key: _absent_left_out(one) for key, one in value.items() if one is not None}
    return [_absent_left_out(one) for one in value] if isinstance(value, list) else value
