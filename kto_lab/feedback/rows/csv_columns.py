"""Plainly regular CSV as columns, by pyarrow: where it cannot read anything but what Python's own parser reads.

In regular text each quote begins or ends a cell or is doubled within a quoted one, and lines end with a newline, with a
carriage return before it or not. Everything else is left to Python's parser.
"""

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from kto_lab.feedback.rows.blocks import Columns

CHUNK = 2**20
# Rows that have no end within so many bytes are left to Python's parser, which knows what is wrong with them.
_LONGEST = 2**24
_MARK = b"\xef\xbb\xbf"


def plain_header(begin: bytes, delimiter: str) -> int | None:
    """The bytes of the header, where it is the first line and Python's parser has nothing to say about it; else None.

    Args:
        begin: the beginning of the text.
        delimiter: what separates its cells.
    """
    end = begin.find(b"\n") + 1
    line = begin[:end]
    if not delimiter.isascii() or not line.strip() or not is_regular(line, delimiter) or b"\0" in line:
        return None
    try:
        line.decode()
    except UnicodeDecodeError:
        return None
    return end


def whole_rows(kept: bytes, text: io.BufferedReader) -> Iterator[tuple[bytes, bytes]]:
    """Chunks of whole rows of regular text, each with what has been read beyond it; empty where no row ends.

    Args:
        kept: the beginning, which has been read already.
        text: the rest.
    """
    ended = False
    while kept or not ended:
        end = len(kept) if ended else _last_end(kept)
        if end or len(kept) > _LONGEST:
            yield kept[:end], kept[end:]
            kept = kept[end:]
        more = text.read(CHUNK)
        ended = not more
        kept += more


def newlines(chunk: bytes) -> int:
    """How many there are; `bytes.count` takes three times as long."""
    return int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == ord("\n")))


def _last_end(text: bytes) -> int:
    """Where the last whole row ends: after a newline with an even number of quotes before it; 0 where there is none."""
    if b'"' not in text:
        return text.rfind(b"\n") + 1
    quotes, end = text.count(b'"'), len(text)
    while (newline := text.rfind(b"\n", 0, end)) >= 0:
        quotes -= text.count(b'"', newline, end)
        if quotes % 2 == 0:
            return newline + 1
        end = newline
    return 0


def is_regular(chunk: bytes, delimiter: str) -> bool:
    """Whether whole rows are regular; see the module."""
    if b"\r" in chunk:
        characters = np.frombuffer(chunk, np.uint8)
        if chunk.endswith(b"\r") or (characters[np.flatnonzero(characters == ord("\r")) + 1] != ord("\n")).any():
            return False
    if b'"' not in chunk:
        return True
    first, *pieces = chunk.split(b'"')
    # What stands within quotes alternates with what stands outside.
    outside = pieces[1::2]
    if len(pieces) % 2:
        return False
    before, after = {delimiter.encode(), b"\n", b""}, {delimiter.encode(), b"\n", b"\r", b""}
    # An empty piece between two quotes makes them one, within a cell.
    return {first[-1:], *(piece[-1:] for piece in outside[:-1])} <= before and {piece[:1] for piece in outside} <= after


def as_columns(chunk: bytes, header: list[str], delimiter: str, place: str, before: int) -> Columns | None:
    """Regular rows as a block of columns of texts; None where one of them is no row of this header, or no UTF-8.

    Args:
        chunk: the rows.
        header: the names of the columns.
        delimiter: what separates the cells.
        place: what the places of rows call the file.
        before: the lines of the file before these.
    """
    if b"\0" in chunk or chunk.startswith(_MARK):
        return None
    try:
        table = csv.read_csv(
            pa.BufferReader(chunk),
            read_options=csv.ReadOptions(column_names=header, block_size=len(chunk) + 1, use_threads=False),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in chunk),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    batches = table.combine_chunks().to_batches()
    if len(batches) != 1:
        return None
    (batch,) = batches
    lines = np.ones(batch.num_rows, dtype=np.int64)
    if b'"' in chunk:
        for column in batch.columns:
            lines += pc.count_substring(column, "\n").to_numpy()
    # Empty lines are no rows, and would shift the places of those after them.
    if lines.sum() != newlines(chunk) + (not chunk.endswith(b"\n")):
        return None
    filled = pa.RecordBatch.from_arrays([_empty_left_out(column) for column in batch.columns], names=header)
    begins = before + 1 + np.concatenate(([0], np.cumsum(lines)[:-1]))
    return Columns(filled, lambda: [f"{place}:{number}" for number in begins.tolist()])


def _empty_left_out(column: pa.Array) -> pa.Array:
    """Cells, null where there is nothing but space."""
    initials = pc.unique(pc.utf8_slice_codeunits(column, 0, 1)).to_pylist()
    if not any(initial == "" or initial.isspace() for initial in initials):
        return column
    return pa.array([cell if cell and not cell.isspace() else None for cell in column.to_pylist()], pa.string())
