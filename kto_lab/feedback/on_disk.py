"""Records as a table that lies on the disk and is read through memory, so that memory does not grow with the table."""

import itertools
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from kto_lab.errors import LabError

# Imported where it is needed: it takes seconds.
if TYPE_CHECKING:
    from datasets import Dataset, DatasetInfo, Features

BATCH = 4096

Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Records:
    """Several records by column.

    Attributes:
        count: how many.
        columns: a list or an Arrow array where they differ; else the value that they share, None for absent ones.
    """

    count: int
    columns: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """A column."""
        return self.columns[name]

    def batch(self, schema: pa.Schema) -> pa.RecordBatch:
        """The same in Arrow."""
        return pa.RecordBatch.from_arrays([self._array(field) for field in schema], schema=schema)

    def _array(self, field: pa.Field) -> pa.Array:
        column = self.columns[field.name]
        if isinstance(column, pa.Array):
            return column.cast(field.type)
        if isinstance(column, list):
            return pa.array(column, field.type)
        return pa.repeat(pa.scalar(column, field.type), self.count)


def table_on_disk(
    records: Iterable[Record | Records], widest: Callable[[], "Features"], settled: Callable[[], "Features"]
) -> "Dataset":
    """The records as a data set on the disk, in a file without a name that goes with the process.

    Args:
        records: with a value for each column of `widest`; a dict is one record, `Records` are several. There is at
            least one.
        widest: the columns that there may be; asked for after the first record.
        settled: those that there are, which may lack columns and keys of messages; asked for after the last record.

    Raises:
        LabError: the disk refuses.
    """
    from datasets import DatasetInfo

    try:
        rows = iter(records)
        first = next(rows)
        with _File(widest().arrow_schema) as written:
            for batch in _batches(itertools.chain([first], rows), written.schema):
                written.write(batch)
            features = settled()
            schema = features.arrow_schema
            table = written.read().select(schema.names)
        if table.schema.types != schema.types:
            # Messages have fewer keys.
            with _File(schema) as narrow:
                for part in table.to_batches():
                    narrow.write(pa.Table.from_batches([part]).cast(schema).to_batches()[0])
                table = narrow.read()
        return _data_set(table.replace_schema_metadata(schema.metadata), DatasetInfo(features=features))
    except OSError as error:
        raise _refused(error) from error


def part_on_disk(table: "Dataset", column: str, value: str) -> "Dataset":
    """The rows of a data set with a value in a column, in its order, on the disk likewise.

    A copy: reading a column through the row indices of `Dataset.select` takes ten times as long.

    Raises:
        LabError: the disk refuses.
    """
    whole = table.with_format("arrow")
    try:
        with _File(table.features.arrow_schema) as written:
            for start in range(0, len(table), BATCH):
                batch = whole[start : start + BATCH]
                kept = batch.filter(pc.equal(batch[column], value)).cast(written.schema).combine_chunks()
                for one in kept.to_batches():
                    written.write(one)
            found = written.read()
    except OSError as error:
        raise _refused(error) from error
    return _data_set(found.replace_schema_metadata(table.features.arrow_schema.metadata), table.info.copy())


def write_stream(path: Path, table: "Dataset", about: Mapping[bytes, str]) -> None:
    """Write a data set as an Arrow stream, with more metadata in its schema.

    Raises:
        OSError: the disk refuses.
    """
    schema = table.features.arrow_schema
    schema = schema.with_metadata({**schema.metadata, **about})
    whole = table.with_format("arrow")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, len(table), BATCH):
            writer.write_table(whole[start : start + BATCH].cast(schema).combine_chunks())


def as_data_set(table: pa.Table) -> "Dataset":
    """The data set of a table that `write_stream` wrote, without the metadata that was added there."""
    from datasets import DatasetInfo, Features

    return _data_set(table, DatasetInfo(features=Features.from_arrow_schema(table.schema)))


def _data_set(table: pa.Table, info: "DatasetInfo") -> "Dataset":
    from datasets import Dataset

    # A name of its own: `datasets` would pickle the whole table in memory to hash it.
    return Dataset(table, info=info, fingerprint=secrets.token_hex(8))


def _refused(error: OSError) -> LabError:
    return LabError(
        f"The table cannot be written to {tempfile.gettempdir()}: {error.strerror or error}. Free some space there, or "
        "set TMPDIR."
    )


def _batches(records: Iterable[Record | Records], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    single: list[Record] = []
    for record in records:
        if isinstance(record, dict):
            single.append(record)
        if single and (len(single) == BATCH or not isinstance(record, dict)):
            yield _columns(single, schema)
            single = []
        if isinstance(record, Records):
            yield record.batch(schema)
    if single:
        yield _columns(single, schema)


def _columns(records: list[Record], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array([record[field.name] for record in records], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _File:
    """Batches in a file whose name goes with the block, whatever ends it: it lasts as long as something reads it."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema.remove_metadata()
        handle, name = tempfile.mkstemp(prefix="kto-lab-table-", suffix=".arrow")
        os.close(handle)
        self._path = Path(name)
        self._stream = pa.OSFile(name, "wb")
        self._writer = pa.ipc.new_stream(self._stream, self.schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stream.close()
        self._path.unlink()

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def read(self) -> pa.Table:
        self._writer.close()
        self._stream.close()
        return pa.ipc.open_stream(pa.memory_map(str(self._path))).read_all()
