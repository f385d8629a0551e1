"""Rows of CSV: the first line names the columns, and empty cells are absent values (None)."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from kto_lab.errors import LabError
from kto_lab.feedback.rows import settings
from kto_lab.feedback.rows.blocks import Block, in_blocks
from kto_lab.feedback.rows.csv_columns import CHUNK, as_columns, is_regular, newlines, plain_header, whole_rows
from kto_lab.feedback.rows.opening import BUFFER, Opened
from kto_lab.feedback.rows.raw import Raw, Unreadable

DELIMITERS = ",;\t|"
_SAMPLE, _LOOKED_AT = 2**16, 20


def read_csv(opened: Opened) -> Iterator[Block]:
    """The rows of a file; "votes.csv:7" is the line that a row begins in."""
    csv.field_size_limit(settings.LARGEST)
    text = opened.text()
    delimiter = opened.reading.delimiter or found_delimiter(text.peek(_SAMPLE)[:_SAMPLE])
    begin = text.read(CHUNK)
    if (first := plain_header(begin, delimiter)) is None:
        yield from in_blocks(_rows(_Joined(begin, text), opened, delimiter))
        return
    header = _header(csv.reader([begin[:first].decode()], strict=True, delimiter=delimiter), opened)
    kept, line = begin[first:], 1
    for chunk, rest in whole_rows(kept, text):
        if not chunk or not is_regular(chunk, delimiter):
            yield from in_blocks(_rows(_Joined(chunk + rest, text), opened, delimiter, header, line))
            return
        block = as_columns(chunk, header, delimiter, opened.place, line)
        if block is None:
            yield from in_blocks(_rows(io.BytesIO(chunk), opened, delimiter, header, line))
        else:
            yield block
        line += newlines(chunk)


class _Joined(io.RawIOBase):
    """Bytes that have been read already, and the rest of a stream, which it does not close."""

    def __init__(self, begin: bytes, rest: io.BufferedReader) -> None:
        self._begin, self._rest = memoryview(begin), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._begin:
            return self._rest.readinto(buffer)
        count = min(len(buffer), len(self._begin))
        buffer[:count] = self._begin[:count]
        self._begin = self._begin[count:]
        return count


def _rows(
    text: io.BytesIO | _Joined, opened: Opened, delimiter: str, header: list[str] | None = None, before: int = 0
) -> Iterator[Raw]:
    """The rows of a text, one by one, as Python's own parser has them.

    Args:
        text: it begins with the header, where that is None.
        opened: the file.
        delimiter: what separates its cells.
        header: the names of its columns.
        before: how many of its lines come before the text.
    """
    place, reading = opened.place, opened.reading
    # Bytes that are no UTF-8 become half characters, so that they spoil the row that they are in and no other.
    buffer = io.BufferedReader(text, BUFFER) if isinstance(text, _Joined) else text
    lines = io.TextIOWrapper(buffer, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    header = _header(reader, opened) if header is None else header
    width = len(header)
    while True:
        number = before + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            remedy = "Check the quotes of the row that starts here."
            yield f"{place}:{number}", Unreadable(f"broken CSV: {error}", remedy)
            continue
        if cells is None:
            return
        if not cells:
            continue
        where = f"{place}:{number}"
        if not _is_text("".join(cells)):
            at = next(place for place, cell in enumerate(cells) if not _is_text(cell))
            named = f" in the column {header[at]!r}" if at < width else ""
            sample = "".join(cells).encode(errors="surrogateescape")
            yield where, Unreadable(f"this is no UTF-8 text{named}", reading.no_text(sample))
        elif len(cells) != width:
            yield where, Unreadable(f"the row has {len(cells)} cells, the header {width}", _about(delimiter, opened))
        else:
            yield (
                where,
                dict(zip(header, [cell if cell and not cell.isspace() else None for cell in cells], strict=True)),
            )


def found_delimiter(sample: bytes) -> str:
    """The delimiter that gives the first rows the most columns, the same number in most of them; else a comma."""
    lines = sample.decode(errors="replace").splitlines(keepends=True)
    # The last line may be cut.
    lines = lines[:-1] if len(lines) > 1 and len(sample) >= _SAMPLE else lines
    best, most = ",", (0.0, 1)
    for delimiter in DELIMITERS:
        widths = _widths(lines, delimiter)
        if not widths or widths[0] < 2:
            continue
        score = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
        if score > most:
            best, most = delimiter, score
    return best


def _widths(lines: list[str], delimiter: str) -> list[int]:
    """How many cells the first rows have."""
    widths: list[int] = []
    try:
        for cells in csv.reader(lines, strict=True, delimiter=delimiter):
            widths += [len(cells)] if cells else []
            if len(widths) >= _LOOKED_AT:
                break
    except csv.Error:  # a row that the sample cuts
        pass
    return widths


def _about(delimiter: str, opened: Opened) -> str:
    shown = {",": "commas", ";": "semicolons", "\t": "tabs"}.get(delimiter, f"{delimiter!r}")
    told = f" (cells are separated by {shown}: {opened.reading.node}.delimiter)" if opened.reading.keys else ""
    return f"Check {shown} and quotes{told}."


def _header(reader: Any, opened: Opened) -> list[str]:
    try:
        header: list[str] = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise LabError(
            f"{opened.place} has no readable header: {error}. Its first line must name the columns."
        ) from error
    if not all(map(_is_text, header)) or any("\0" in column for column in header):
        remedy = opened.reading.no_text("".join(header).encode(errors="surrogateescape"))
        raise LabError(
            f"{opened.place}:{reader.line_num}: the names of the columns are no UTF-8 text. {remedy} The first line of "
            "CSV must name the columns."
        )
    if repeated := sorted({column for column in header if header.count(column) > 1}):
        where = f"{opened.place}:{reader.line_num}"
        raise LabError(f"{where}: the column {repeated[0]!r} is there more than once. Give each a name of its own.")
    return header


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True
