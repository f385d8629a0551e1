"""From a file to its rows, with the place of each, in bounded memory: JSON, JSON lines, CSV and Parquet.

A row that cannot be read is a `LeftOut`, and what comes after it is read on. A JSON list is cut into its elements by
their brackets before anything is parsed, so that one broken element costs one row, not the rest of the file; that is
what the streaming parsers do not do. Of a file no more is in memory than its largest row (at most `LARGEST`).
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from kto_lab.errors import LabError
from kto_lab.feedback.file import SUFFIXES
from kto_lab.importing.exports.values import NoThumbError
from kto_lab.importing.thumbs import LeftOut, Reason, Row

Raw: TypeAlias = tuple[str, dict[str, Any] | LeftOut]

# Bytes of one row. Beyond it a file is not what it seems: a bracket or a quote is missing somewhere.
LARGEST = 128 * 2**20
_CHUNK = 2**18
_BATCH = 256
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# The next bracket outside of strings; possessive, so that no input makes it search again.
_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+([{}\[\]])', re.DOTALL)
# What stands between the elements of a list beside commas.
_SCALAR = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^,\s"]++', re.DOTALL)


def rows_of(raws: Iterator[Raw], make: Callable[[str, dict[str, Any]], Row]) -> Iterator[Row]:
    """One row for each raw row: what `make` makes of it, or why it refuses."""
    for where, raw in raws:
        if isinstance(raw, LeftOut):
            yield Row(left_out=(raw,))
            continue
        try:
            yield make(where, raw)
        except NoThumbError as refusal:
            yield Row(left_out=(refusal.at(where),))


def existing(path: str, key: str) -> Path:
    """The file of a setting.

    Args:
        path: the file as the user wrote it.
        key: the setting, for the message.

    Raises:
        LabError: there is no such file, or it is empty.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise LabError(f"{key}: there is no file {path}. Give the path of the export.")
    with mended(file):
        if file.stat().st_size == 0:
            raise LabError(f"{key}: {path} is empty. Export it again.")
    return file


def records(file: Path, format: str = "auto") -> Iterator[Raw]:
    """The rows of a file with their places: "feedback.json[12]", "chats.jsonl:7", "votes.parquet, row 3".

    Args:
        file: an existing file.
        format: json (a list, or an object a line), jsonl, csv or parquet; auto goes by the name's ending, and takes
            an ending that says nothing for json.

    Raises:
        LabError: the file as a whole is of another kind, or the disk refuses.
    """
    kind = SUFFIXES.get(file.suffix.lower(), "json") if format == "auto" else format
    readers = {"json": _json, "jsonl": _json, "csv": _csv, "parquet": _parquet}
    if kind not in readers:
        raise LabError(f"export.format is {format!r}; it must be auto, {', '.join(readers)}.")
    return readers[kind](file)


@contextmanager
def mended(file: Path) -> Iterator[None]:
    """Say what the disk refuses as an error for a person."""
    try:
        yield
    except OSError as error:
        raise LabError(
            f"{file} cannot be read: {error.strerror or error}. Check the disk and the permissions."
        ) from error


def _json(file: Path) -> Iterator[Raw]:
    with mended(file), file.open("rb") as handle:
        begin = handle.read(4096)
        if begin.startswith(_UTF16):
            raise LabError(f"{file} is UTF-16 text. Save it as UTF-8.")
        bom = len(_BOM) if begin.startswith(_BOM) else 0
        handle.seek(bom)
        text = begin[bom:].lstrip()
        if text.startswith(b"["):
            yield from _elements(handle, file.name)
        elif text.split(b"\n", 1)[0].strip() == b"{":
            raise LabError(f"{file} is one JSON object over several lines. A list of rows is read, or one row a line.")
        else:
            yield from _lines(handle, file.name)


def _lines(handle: BinaryIO, name: str) -> Iterator[Raw]:
    number = 0
    while line := handle.readline(LARGEST):
        number += 1
        where = f"{name}:{number}"
        if len(line) == LARGEST and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = handle.readline(LARGEST)
            yield where, LeftOut(where, Reason.UNREADABLE, f"a line of more than {LARGEST >> 20} MB")
        elif line.strip():
            yield where, _parsed(where, line)


def _parsed(where: str, raw: bytes) -> dict[str, Any] | LeftOut:
    try:
        value = json.loads(raw.decode().strip())
    except UnicodeDecodeError as error:
        return LeftOut(where, Reason.UNREADABLE, f"no UTF-8 text: {error.reason}")
    except RecursionError:
        return LeftOut(where, Reason.UNREADABLE, "JSON nested too deep")
    except json.JSONDecodeError as error:
        return LeftOut(where, Reason.UNREADABLE, f"broken JSON: {error.msg} at character {error.pos}")
    except ValueError:
        return LeftOut(where, Reason.UNREADABLE, "broken JSON: a number of too many digits")
    return value if isinstance(value, dict) else LeftOut(where, Reason.UNREADABLE, "no JSON object")


def _elements(handle: BinaryIO, name: str) -> Iterator[Raw]:
    """The elements of a JSON list, each parsed on its own."""
    for number, piece in enumerate(_pieces(handle)):
        where = f"{name}[{number}]"
        yield where, LeftOut(where, Reason.UNREADABLE, piece) if isinstance(piece, str) else _parsed(where, piece)


def _pieces(handle: BinaryIO) -> Iterator[bytes | str]:
    """The texts of a list's elements, cut at their brackets; a str says why something is none."""
    text = b""
    kept = 0  # where the element begins, or what stands between two elements
    scanned = 0  # the end of the last bracket
    depth = 0
    while True:
        found = _BRACKET.match(text, scanned)
        if found is None:
            if len(text) - kept > LARGEST:
                yield f"more than {LARGEST >> 20} MB with no end; what follows was not read"
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
            if text[scanned:].strip() or _says_something(handle):
                yield "text after the end of the list"
            return


def _cut_off(rest: bytes, depth: int) -> Iterator[str]:
    if depth == 1:
        yield from _scalars(rest)
    yield "the file ends within this row" if depth > 1 else "the file ends before the list does"


def _scalars(between: bytes) -> Iterator[str]:
    for _ in _SCALAR.finditer(between):
        yield "no JSON object"


def _says_something(handle: BinaryIO) -> bool:
    return any(block.strip() for block in iter(lambda: handle.read(_CHUNK), b""))


def _csv(file: Path) -> Iterator[Raw]:
    csv.field_size_limit(LARGEST)
    # Bytes that are no UTF-8 become half characters, so that they spoil the row that they are in and no other.
    with mended(file), file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        header = _header(reader, file)
        while True:
            where = f"{file.name}:{reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield where, LeftOut(where, Reason.UNREADABLE, f"broken CSV: {error}")
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                detail = f"{len(cells)} cells, the header has {len(header)}"
                yield where, LeftOut(where, Reason.UNREADABLE, detail)
            elif not all(map(_is_text, cells)):
                yield where, LeftOut(where, Reason.UNREADABLE, "no UTF-8 text")
            else:
                yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _header(reader: Any, file: Path) -> list[str]:
    try:
        header: list[str] = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise LabError(f"{file} has no readable header: {error}. Its first line must name the columns.") from error
    if not all(map(_is_text, header)) or any("\0" in name for name in header):
        raise LabError(f"{file} is no UTF-8 text. Save it as UTF-8, with the names of the columns in its first line.")
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise LabError(f"{file}: the column {repeated[0]!r} is there more than once. Give each a name of its own.")
    return header


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(file: Path) -> Iterator[Raw]:
    number = 0
    try:
        with pq.ParquetFile(file) as reader:
            for batch in reader.iter_batches(batch_size=_BATCH):
                for row in _python(batch):
                    number += 1
                    where = f"{file.name}, row {number}"
                    unreadable = LeftOut(where, Reason.UNREADABLE, "a value that cannot be read")
                    yield where, unreadable if row is None else row
    except (pa.ArrowException, OSError) as error:
        if number:
            where = f"{file.name}, row {number + 1}"
            yield where, LeftOut(where, Reason.UNREADABLE, "damaged Parquet; what follows was not read")
            return
        raise LabError(f"{file} is no readable Parquet file: {error}. Export it again.") from error


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
