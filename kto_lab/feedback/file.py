"""Feedback from a user's own file: JSONL, CSV or Parquet."""

import csv
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.mapping import Layout, layout
from kto_lab.feedback.survey import table_of

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}

_BOOLEANS = ("label", "chosen_wins", "finished")
_LARGEST_CELL = 2**31 - 1


def from_file(
    *,
    path: str,
    format: Literal["auto", "jsonl", "csv", "parquet"],
    columns: Mapping[str, str | None],
    labels: Mapping[Any, bool | None] | None,
    up_from: float | None,
    down_to: float | None,
    timezone: str,
    day_first: bool | None,
    as_chat: bool,
    constant_prompt: str | None,
    lists: Literal["turns", "alternatives", "text"] | None,
    ignore: Sequence[str],
    min_certainty: float | None,
    cut_at: int | None,
    bad_rows: Literal["error", "drop"],
    held_out: float,
) -> Dataset:
    """The table of examples of one file; see `mapping` for what a row may be.

    A CSV has a header and is read as UTF-8. Its empty cells are absent values, and `true` and `false` in any case are
    booleans. JSONL and Parquet are read in pieces. A file is read more than once: see `survey.table_of`.

    Args:
        path: the file.
        format: its format; "auto" goes by the file name.
        columns: see `mapping.layout`.
        labels: see `mapping.layout`.
        up_from: see `mapping.layout`.
        down_to: see `mapping.layout`.
        as_chat: a prompt that is text becomes one user message.
        constant_prompt: see `mapping.layout`.
        lists: see `mapping.layout`.
        ignore: see `mapping.layout`.
        timezone: see `mapping.with_times`.
        day_first: see `mapping.with_times`.
        min_certainty: see `mapping.layout`.
        cut_at: see `mapping.layout`.
        bad_rows: see `mapping.layout`.
        held_out: share of prompts in the test split, in [0, 1).

    Raises:
        LabError: the file or a row of it cannot be read; the message names the file and the line (Parquet: the row).
    """
    how = layout(
        columns,
        labels=labels,
        up_from=up_from,
        down_to=down_to,
        chat="all" if as_chat else "given",
        constant_prompt=constant_prompt,
        lists=lists,
        ignore=ignore,
        min_certainty=min_certainty,
        cut_at=cut_at,
        bad_rows=bad_rows,
    )
    file = Path(path).expanduser()
    raws = functools.partial(raw_rows, file, format, how)
    # The table's identity holds the source's name, so it must not hold the folder.
    return table_of(
        raws, how, source=str(file), name=file.name, timezone=timezone, day_first=day_first, held_out=held_out
    )


def raw_rows(
    file: Path, format: Literal["auto", "jsonl", "csv", "parquet"], how: Layout, *, node: str = "feedback"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file as they are, each with its place.

    Args:
        file: to read.
        format: its format; "auto" goes by the file name.
        how: which columns of a CSV hold booleans.
        node: whose `path` and `format` were given, for messages.

    Raises:
        LabError: as in `from_file`.
    """
    if not file.is_file():
        raise LabError(f"{node}.path: there is no file {file}. Give the path of a JSONL, CSV or Parquet file.")
    kind = SUFFIXES.get(file.suffix.lower()) if format == "auto" else format
    if kind not in SUFFIXES.values():
        raise LabError(
            f"{node}.path: what kind of file is {file}? Known endings are {', '.join(SUFFIXES)}; for another, set "
            f"{node}.format to jsonl, csv or parquet."
        )
    if file.stat().st_size == 0:
        raise LabError(f"{file}: the file is empty.")
    return _csv(file, how) if kind == "csv" else json_lines(file) if kind == "jsonl" else _parquet(file)


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file with their places, line ends kept. A byte order mark at the start is skipped."""
    with file.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            where = f"{file}:{number}"
            try:
                yield where, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise LabError(f"{where}: this is no UTF-8 text ({error.reason}). Save the file as UTF-8.") from error


def json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place; LabError where a line is none."""
    for where, line in _lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line.rstrip())
        except (ValueError, RecursionError) as error:
            what = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise LabError(f"{where}: broken JSON: {what}. Each line must be one JSON object.") from error
        if not isinstance(row, dict):
            raise LabError(f'{where}: the line is no JSON object. Each line must be one, such as {{"prompt": ...}}.')
        yield where, row


def _csv(file: Path, how: Layout) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(_LARGEST_CELL)
    reader = csv.reader((line for _, line in _lines(file)), strict=True)
    header: list[str] = []
    while True:
        where = f"{file}:{reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise LabError(f"{where}: broken CSV: {error}. Check the quotes of the row that starts here.") from error
        if row is None:
            return
        if not row:
            continue
        if not header:
            header = row
            if repeated := {name for name in header if header.count(name) > 1}:
                raise LabError(f"{where}: the column {min(repeated)!r} is there more than once.")
            continue
        if len(row) != len(header):
            raise LabError(f"{where}: the row has {len(row)} cells, the header {len(header)}. Check commas and quotes.")
        yield where, _typed(dict(zip(header, row, strict=True)), how)


def _typed(cells: dict[str, str], how: Layout) -> dict[str, Any]:
    """CSV cells as the values they stand for; a CSV has text only."""
    row: dict[str, Any] = {column: cell if cell.strip() else None for column, cell in cells.items()}
    for field, column in how.columns.items():
        cell = row.get(column)
        if cell is None:
            continue
        if field in _BOOLEANS:
            row[column] = {"true": True, "false": False}.get(cell.strip().lower(), cell)
    return row


def _parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with pq.ParquetFile(file) as reader:
            for batch in reader.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise LabError(f"{file}: this is no readable Parquet file ({error}). It broke after row {number}.") from error
