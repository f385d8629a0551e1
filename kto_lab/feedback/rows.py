"""The one reader of files of rows, in bounded memory: JSON, JSON lines, CSV and Parquet, each row with its place.

A row that cannot be read is an `Unreadable`, and the rows after it are still read. A JSON list is cut into its elements
by their brackets before anything is parsed, so that one broken element costs one row and not the rest of the file, as
it would with a streaming parser. No more of a file is in memory than its largest row (at most `LARGEST`).

A container is a function from a file and its name to rows; `CONTAINERS` names them, with the endings of their files.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from kto_lab.errors import LabError

# Bytes of one row. A larger one means that the file is not what it seems: a bracket or a quote is missing somewhere.
LARGEST = 128 * 2**20
# A Parquet file of many rows that has more of them for each of its bytes holds no thumbs: to read it would take hours.
MANY_ROWS, ROWS_PER_BYTE = 1_000_000, 10
_CHUNK = 2**18
_BATCH = 256
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# The next bracket outside of strings; possessive, so that no input makes it search again.
_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+([{}\[\]])', re.DOTALL)
# What stands between the elements of a list, apart from commas.
_SCALAR = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^,\s"]++', re.DOTALL)


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be read.

    Attributes:
        detail: why, in a few words.
        remedy: what to do about it, in a sentence.
        last: the file cannot be read beyond it.
    """

    detail: str
    remedy: str = "Repair or remove the row."
    last: bool = False

    def error(self, where: str) -> LabError:
        """The same as an error about the row's place."""
        return LabError(f"{where}: {self.detail}. {self.remedy}")


Raw: TypeAlias = tuple[str, dict[str, Any] | Unreadable]


def existing(path: str | Path, key: str) -> Path:
    """The file that a setting names.

    Args:
        path: as the user wrote it.
        key: the setting, for the message.

    Raises:
        LabError: there is no such file, or it is empty.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise LabError(f"{key}: there is no file {file}. Check the path.")
    with disk_errors(file):
        if file.stat().st_size == 0:
            raise LabError(f"{key}: {file}: the file is empty.")
    return file


def read_rows(
    file: Path, format: str = "auto", *, node: str = "feedback", name: str | None = None, otherwise: str | None = None
) -> Iterator[Raw]:
    """The rows of a file with their places: "thumbs.json[12]", "chats.jsonl:7", "votes.parquet, row 3".

    Empty CSV cells are absent values (None). The rows are read as they are asked for.

    Args:
        file: an existing file.
        format: one of `CONTAINERS` (json is a list, or an object per line, and so is jsonl); auto goes by the file's
            ending.
        node: whose `path` and `container` were given, for messages.
        name: what places call the file; None for its path.
        otherwise: the format of a file whose ending is not known; None: it is asked for.

    Raises:
        LabError: the format is not known, the file as a whole is of another kind, or the disk refuses.
    """
    if format == "auto":
        suffix = file.suffix.lower()
        kind = next((kind for kind, one in CONTAINERS.items() if suffix in one.suffixes), otherwise)
        if kind is None:
            endings = ", ".join(suffix for one in CONTAINERS.values() for suffix in one.suffixes)
            raise LabError(
                f"{node}.path: what kind of file is {file}? Known endings are {endings}; for another, set "
                f"{node}.container to one of {', '.join(CONTAINERS)}."
            )
    elif format in CONTAINERS:
        kind = format
    else:
        raise LabError(f"{node}.container is {format!r}; it must be auto or one of {', '.join(CONTAINERS)}.")
    return CONTAINERS[kind].read(file, str(file) if name is None else name)


def readable(raws: Iterable[Raw]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows that can be read, with their places."""
    for where, raw in raws:
        if not isinstance(raw, Unreadable):
            yield where, raw


def all_readable(raws: Iterable[Raw]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows with their places; LabError at the first that cannot be read."""
    for where, raw in raws:
        if isinstance(raw, Unreadable):
            raise raw.error(where)
        yield where, raw


@contextmanager
def disk_errors(file: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error for a person."""
    try:
        yield
    except OSError as error:
        raise LabError(
            f"{file} cannot be read: {error.strerror or error}. Check the disk and the permissions."
        ) from error


def _json(file: Path, name: str) -> Iterator[Raw]:
    with disk_errors(file), file.open("rb") as handle:
        begin = handle.read(4096)
        if begin.startswith(_UTF16):
            raise LabError(f"{file} is UTF-16 text. Save it as UTF-8.")
        bom = len(_BOM) if begin.startswith(_BOM) else 0
        handle.seek(bom)
        text = begin[bom:].lstrip()
        if text.startswith(b"["):
            yield from _elements(handle, name)
        elif text.split(b"\n", 1)[0].strip() == b"{":
            raise LabError(
                f"{file} is one JSON object over several lines. A file holds a list of rows, or one row per line."
            )
        else:
            yield from _lines(handle, name)


def _lines(handle: BinaryIO, name: str) -> Iterator[Raw]:
    number = 0
    while line := handle.readline(LARGEST):
        number += 1
        where = f"{name}:{number}"
        if len(line) == LARGEST and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = handle.readline(LARGEST)
            yield where, Unreadable(f"a line of more than {LARGEST >> 20} MB")
        elif line.strip():
            yield where, _parsed(line)


def _parsed(text: bytes) -> dict[str, Any] | Unreadable:
    try:
        value = json.loads(text.decode().strip())
    except UnicodeDecodeError as error:
        return Unreadable(f"this is no UTF-8 text ({error.reason})", "Save the file as UTF-8.")
    except RecursionError:
        return Unreadable("broken JSON: nested too deep")
    except json.JSONDecodeError as error:
        return Unreadable(
            f"broken JSON: {error.msg} at character {error.pos + 1}", "Each row must be one JSON object, on one line."
        )
    except ValueError:
        return Unreadable("broken JSON: a number of too many digits")
    return value if isinstance(value, dict) else Unreadable("no JSON object", 'Write a row as {"prompt": ...}.')


def _elements(handle: BinaryIO, name: str) -> Iterator[Raw]:
    """The elements of a JSON list, each parsed on its own."""
    for number, piece in enumerate(_pieces(handle)):
        yield f"{name}[{number}]", piece if isinstance(piece, Unreadable) else _parsed(piece)


def _pieces(handle: BinaryIO) -> Iterator[bytes | Unreadable]:
    """The texts of a list's elements, cut at their brackets."""
    text = b""
    kept = 0  # where the element begins, or what stands between two elements
    scanned = 0  # the end of the last bracket
    depth = 0
    while True:
        found = _BRACKET.match(text, scanned)
        if found is None:
            if len(text) - kept > LARGEST:
                yield Unreadable(f"more than {LARGEST >> 20} MB with no end; the rest was not read", last=True)
                return
            # Twice as much each time: a long element is scanned twice at most.
            more = handle.read(max(_CHUNK, len(text) - kept))
            if not more:
                yield from _cut_off(text[kept:], depth)
                return
            text, scanned, kept = text[kept:] + more, scanned - kept, 0
            continue
        scanned = found.end()
        opens = found.group(1) in b"{["
        depth += 1 if opens else -1
        if opens and depth == 2:
            yield from _scalars(text[kept : scanned - 1])
            kept = scanned - 1
        elif opens and depth == 1:
            kept = scanned
        elif depth == 1:
            yield text[kept:scanned]
            kept = scanned
        elif depth == 0:
            yield from _scalars(text[kept : scanned - 1])
            if text[scanned:].strip() or any(block.strip() for block in iter(lambda: handle.read(_CHUNK), b"")):
                yield Unreadable("text after the end of the list", last=True)
            return


def _cut_off(rest: bytes, depth: int) -> Iterator[Unreadable]:
    if depth == 1:
        yield from _scalars(rest)
    where = "within this row" if depth > 1 else "before the list does"
    yield Unreadable(f"the file ends {where}", "Get the file again.", last=True)


def _scalars(between: bytes) -> Iterator[Unreadable]:
    for _ in _SCALAR.finditer(between):
        yield Unreadable("no JSON object", 'Write a row as {"prompt": ...}.')


def _csv(file: Path, name: str) -> Iterator[Raw]:
    csv.field_size_limit(LARGEST)
    # Bytes that are no UTF-8 become half characters, so that they spoil the row that they are in and no other.
    with disk_errors(file), file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        header = _header(reader, name)
        while True:
            where = f"{name}:{reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield where, Unreadable(f"broken CSV: {error}", "Check the quotes of the row that starts here.")
                continue
            if cells is None:
                return
            if not cells:
                continue
            if not all(map(_is_text, cells)):
                yield where, Unreadable("this is no UTF-8 text", "Save the file as UTF-8.")
            elif len(cells) != len(header):
                detail = f"the row has {len(cells)} cells, the header {len(header)}"
                yield where, Unreadable(detail, "Check commas and quotes.")
            else:
                yield (
                    where,
                    {column: cell if cell.strip() else None for column, cell in zip(header, cells, strict=True)},
                )


def _header(reader: Any, name: str) -> list[str]:
    try:
        header: list[str] = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise LabError(f"{name} has no readable header: {error}. Its first line must name the columns.") from error
    if not all(map(_is_text, header)) or any("\0" in column for column in header):
        raise LabError(f"{name} is no UTF-8 text. Save it as UTF-8, with the names of the columns in its first line.")
    if repeated := sorted({column for column in header if header.count(column) > 1}):
        where = f"{name}:{reader.line_num}"
        raise LabError(f"{where}: the column {repeated[0]!r} is there more than once. Give each a name of its own.")
    return header


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(file: Path, name: str) -> Iterator[Raw]:
    number = 0
    try:
        with pq.ParquetFile(file) as reader:
            rows, size = reader.metadata.num_rows, file.stat().st_size
            if rows > max(MANY_ROWS, size * ROWS_PER_BYTE):
                raise LabError(
                    f"{file} says that its {size:,} bytes hold {rows:,} rows, which can only be the same ones over and "
                    "over. Get the file again, or write it with the rows that are meant."
                )
            for batch in reader.iter_batches(batch_size=_BATCH):
                for row in _python(batch):
                    number += 1
                    yield f"{name}, row {number}", Unreadable("a value that cannot be read") if row is None else row
    except (pa.ArrowException, OSError) as error:
        if not number:
            raise LabError(f"{file} is no readable Parquet file: {error}. Get the file again.") from error
        detail = "damaged Parquet; the rest was not read"
        yield f"{name}, row {number + 1}", Unreadable(detail, "Get the file again.", last=True)


def _python(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The rows of a batch; None for one whose values Python cannot hold."""
    # Python has no nanoseconds.
    fields = [
        field.with_type(pa.timestamp("us", field.type.tz)) if pa.types.is_timestamp(field.type) else field
        for field in batch.schema
    ]
    try:
        return list(pa.Table.from_batches([batch]).cast(pa.schema(fields), safe=False).to_pylist())
    except (pa.ArrowException, ValueError, OverflowError):
        if batch.num_rows == 1:
            return [None]
    return [row for number in range(batch.num_rows) for row in _python(batch.slice(number, 1))]


@dataclass(frozen=True)
class Container:
    """A kind of file that holds rows.

    Attributes:
        suffixes: the endings of such files, in small letters.
        read: the rows of a file, with places that begin with the given name.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, str], Iterator[Raw]]


CONTAINERS = {
    "json": Container((".json",), _json),
    "jsonl": Container((".jsonl", ".ndjson"), _json),
    "csv": Container((".csv",), _csv),
    "parquet": Container((".parquet", ".pq"), _parquet),
}
