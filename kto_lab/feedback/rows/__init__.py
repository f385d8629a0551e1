"""The one reader of files of rows, in bounded memory: JSON, JSON lines, CSV, Parquet and Arrow, also compressed.

Each row has its place. A row that cannot be read is an `Unreadable`, and the rows after it are still read. `existing`
finds the files that a setting names, `read_rows` reads them. A container is a function from an open file to blocks,
which have rows one by one or as columns; `CONTAINERS` names them, with the endings of their files.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.feedback.rows import files as _files
from kto_lab.feedback.rows.arrow_rows import read_arrow, read_parquet
from kto_lab.feedback.rows.blocks import Block, Rows, all_readable_of, in_blocks, raws_of
from kto_lab.feedback.rows.csv_rows import read_csv
from kto_lab.feedback.rows.files import PIPED, Files, is_pattern, matching, standard_input, uncompressed
from kto_lab.feedback.rows.json_rows import read_json
from kto_lab.feedback.rows.opening import Opened, member_name, opened, whole_text
from kto_lab.feedback.rows.raw import Raw, Unreadable, all_readable, readable
from kto_lab.feedback.rows.settings import ContainerName, Paths, Reading

__all__ = [
    "CONTAINERS",
    "Block",
    "Container",
    "ContainerName",
    "Files",
    "Paths",
    "Raw",
    "Reading",
    "Unreadable",
    "all_readable",
    "all_readable_of",
    "existing",
    "in_blocks",
    "is_pattern",
    "matching",
    "raws_of",
    "read_blocks",
    "read_rows",
    "readable",
    "standard_input",
    "whole_text",
]

# Seconds after which one sees how far the reading is.
PATIENCE = 2.0
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Container:
    """A kind of file that holds rows.

    Attributes:
        suffixes: the endings of such files, in small letters.
        read: the rows of an open file, in blocks.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Opened], Iterator[Block]]


CONTAINERS = {
    "json": Container((".json",), read_json),
    "jsonl": Container((".jsonl", ".ndjson"), read_json),
    "csv": Container((".csv", ".tsv", ".tab"), read_csv),
    "parquet": Container((".parquet", ".pq"), read_parquet),
    "arrow": Container((".arrow", ".feather", ".ipc"), read_arrow),
}
_ENDINGS = tuple(suffix for one in CONTAINERS.values() for suffix in one.suffixes)
# How the content of standard input, which has no ending, begins.
_BEGINNINGS = {b"PAR1": "parquet", b"ARROW1": "arrow", b"{": "json", b"[": "json"}


def existing(path: Paths | Path, key: str) -> Files:
    """The files that a setting names.

    Args:
        path: a file, a folder (its files of a known ending), a glob, "-" (standard input), or a list of these.
        key: the setting, for messages.

    Raises:
        LabError: there is no such file, one is empty, or a folder holds files of several kinds.
    """
    return _files.existing(path, key, _ENDINGS)


def read_rows(
    files: Files, reading: Reading, *, short: bool = False, otherwise: str | None = None, quiet: bool = False
) -> Iterator[Raw]:
    """The rows of files with their places: "thumbs.json[12]", "chats.jsonl:7", "votes.parquet, row 3".

    See `read_blocks`.
    """
    return raws_of(read_blocks(files, reading, short=short, otherwise=otherwise, quiet=quiet))


def read_blocks(
    files: Files, reading: Reading, *, short: bool = False, otherwise: str | None = None, quiet: bool = False
) -> Iterator[Block]:
    """The rows of files in blocks.

    The blocks are read as they are asked for. What takes longer than `PATIENCE` shows how far it is.

    Args:
        files: from `existing`.
        reading: how they are read.
        short: places begin with a file's name rather than its path.
        otherwise: the container of a file whose ending is not known; None: it is asked for.
        quiet: show nothing.

    Raises:
        LabError: the container is not known, a file as a whole is of another kind or has too many rows, or the disk
            refuses.
    """
    places = files.places(short=short)
    kinds = [
        _kind(file, reading, otherwise, piped=place == PIPED) for file, place in zip(files.files, places, strict=True)
    ]
    return _all(files, places, kinds, reading, quiet=quiet)


def _kind(file: Path, reading: Reading, otherwise: str | None, *, piped: bool) -> str:
    if reading.container != "auto":
        if reading.container not in CONTAINERS:
            raise LabError(
                f"{reading.node}.container is {reading.container!r}; it must be auto or one of {', '.join(CONTAINERS)}."
            )
        return reading.container
    suffix = uncompressed(file.name).suffix.lower()
    if not suffix and file.suffix.lower() == ".zip":
        suffix = uncompressed(member_name(file)).suffix.lower()
    kind = next((kind for kind, one in CONTAINERS.items() if suffix in one.suffixes), otherwise)
    if kind is None and piped:
        with opened(file, PIPED, reading) as content:
            begin = content.content.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        kind = next((kind for start, kind in _BEGINNINGS.items() if begin.startswith(start)), None)
    if kind is None:
        what = "of rows does standard input hold" if piped else f"of file is {file}"
        raise LabError(
            f"{reading.node}.path: what kind {what}? Known endings are {', '.join(_ENDINGS)}; for another, set "
            f"{reading.node}.container to one of {', '.join(CONTAINERS)}."
        )
    return kind


def _all(files: Files, places: list[str], kinds: list[str], reading: Reading, *, quiet: bool) -> Iterator[Block]:
    sizes = [file.stat().st_size for file in files.files]
    with _Shown(files.name, sum(sizes), quiet=quiet) as shown:
        for number, (file, place, kind) in enumerate(zip(files.files, places, kinds, strict=True)):
            before, size = sum(sizes[:number]), sizes[number]
            most, rows = reading.most(size), 0
            with opened(file, place, reading) as content:
                for block in CONTAINERS[kind].read(content):
                    if rows + len(block) > most:
                        yield Rows(list(block.raws())[: most - rows])
                        raise reading.too_many(file, size, f"more than {most:,}")
                    rows += len(block)
                    shown.at(before + content.read_so_far())
                    yield block


class _Shown:
    """How far the reading of files is, in megabytes; shown once it has taken longer than `PATIENCE`."""

    def __init__(self, name: str, size: int, *, quiet: bool) -> None:
        self._name, self._size, self._quiet = name, size, quiet
        self._start = time.monotonic()
        self._advance: narration.Advance | None = None
        self._done = 0

    def at(self, position: int) -> None:
        """So many bytes are read."""
        if self._advance is None:
            if self._quiet or time.monotonic() - self._start < PATIENCE:
                return
            total = max(self._size // _MEGABYTE, 1)
            self._advance = self._stack.enter_context(narration.progress(f"MB of {self._name}", total))
        done = min(position, self._size) // _MEGABYTE
        self._advance(done - self._done)
        self._done = done

    def __enter__(self) -> "_Shown":
        self._stack = ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        if self._advance is not None and self._done < self._size // _MEGABYTE:
            self._advance(self._size // _MEGABYTE - self._done)
        self._stack.close()
