"""Which files a setting names: one, several, those of a folder or a glob, or standard input."""

import atexit
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kto_lab.errors import LabError
from kto_lab.feedback.rows.settings import Paths

STANDARD_INPUT = "-"
PIPED = "standard input"
# Endings of compressed files, which stand after the ending of what is compressed.
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip")
# What `datasets` writes beside a table.
_BESIDE = ("dataset_info.json", "state.json", "dataset_dict.json")


@dataclass(frozen=True)
class Files:
    """The files that a setting names, in order; made by `existing`.

    Attributes:
        files: there is at least one, and none is empty.
        name: a short name of them all, without folders.
        given: as the user wrote it.
    """

    files: tuple[Path, ...]
    name: str
    given: str

    def __str__(self) -> str:
        """As the user wrote it."""
        return self.given

    @property
    def stem(self) -> str:
        """The short name without the endings of a single file."""
        return uncompressed(self.name).stem if len(self.files) == 1 else self.name

    @property
    def suffix(self) -> str:
        """The ending of the first file before it was compressed, in small letters."""
        return uncompressed(self.files[0].name).suffix.lower()

    def places(self, *, short: bool) -> list[str]:
        """What the places of rows call each file: its path, or where `short` its name if no other has that."""
        names = [file.name for file in self.files]
        if len(self.files) == 1 and self.given == STANDARD_INPUT:
            return [PIPED]
        return names if short and len(set(names)) == len(names) else [str(file) for file in self.files]


def existing(path: Paths | Path, key: str, endings: Sequence[str] = ()) -> Files:
    """The files that a setting names.

    Args:
        path: a file, a folder (its files of a known ending), a glob, "-" (standard input), or a list of these.
        key: the setting, for messages.
        endings: of the files of a folder; none: every ending that a reader knows.

    Raises:
        LabError: there is no such file, one is empty, or a folder holds files of several kinds.
    """
    if not isinstance(path, Sequence) or isinstance(path, str):
        return _one(path, key, endings)
    parts = [_one(one, key, endings) for one in path]
    if not parts:
        raise LabError(f"{key} is an empty list. Name a file.")
    files = tuple(dict.fromkeys(file for part in parts for file in part.files))
    more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
    return Files(files, f"{parts[0].name}{more}", f"{parts[0].given}{more}")


def _one(path: Any, key: str, endings: Sequence[str]) -> Files:
    if not isinstance(path, (str, Path)):
        raise LabError(f"{key} is {path!r}, which names no file. Write it in quotes, or as a list of names.")
    if str(path) == STANDARD_INPUT:
        return Files((standard_input(),), PIPED, STANDARD_INPUT)
    if not str(path).strip():
        raise LabError(f"{key} is empty. Name a file, a folder, a glob such as 'shards/*.jsonl', or - for its input.")
    file = Path(path).expanduser()
    given = str(file)
    if file.is_dir():
        return Files(_of_folder(file, key, endings), file.resolve().name or given, given)
    if not file.exists() and is_pattern(given):
        found = tuple(matching(given))
        if not found:
            raise LabError(f"{key}: no file matches {given}. Check the pattern, and quote it for the shell.")
        return Files(_checked(found, key), file.name, given)
    if not file.exists():
        raise LabError(f"{key}: there is no file {file}. Check the path.")
    return Files(_checked((file,), key), file.name, given)


def is_pattern(text: str) -> bool:
    """Whether a text is a glob: it has a wildcard, and a slash or an ending.

    Other texts with wildcards may be regular expressions of other keys.
    """
    return glob.has_magic(text) and ("/" in text or bool(Path(text).suffix.strip(".*?[]")))


def matching(pattern: str) -> list[Path]:
    """The files that a glob matches, sorted; "**" goes through folders."""
    # Path.glob takes no absolute pattern.
    return sorted(found for one in glob.glob(pattern, recursive=True) if (found := Path(one)).is_file())  # noqa: PTH207


def _of_folder(folder: Path, key: str, endings: Sequence[str]) -> tuple[Path, ...]:
    with disk_errors(folder):
        there = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    found = [file for file in there if _ending(file) in endings and file.name not in _BESIDE]
    kinds = sorted({_ending(file) for file in found})
    if len(kinds) > 1:
        raise LabError(
            f"{key}: the folder {folder} holds files of several kinds: {', '.join(kinds)}. Say which are meant, such "
            f"as {key}='{folder}/*{kinds[0]}'."
        )
    if not found:
        inner = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
        hint = f" It holds folders ({', '.join(inner[:5])}): name one, or a glob such as '{folder}/**/*.jsonl'."
        raise LabError(
            f"{key}: the folder {folder} holds no file that ends in {', '.join(endings)}.{hint if inner else ''}"
        )
    return _checked(tuple(found), key)


def _ending(file: Path) -> str:
    plain = uncompressed(file.name).suffix.lower()
    return plain or file.suffix.lower()


def _checked(files: tuple[Path, ...], key: str) -> tuple[Path, ...]:
    for file in files:
        with disk_errors(file):
            if file.is_file() and file.stat().st_size == 0:
                raise LabError(f"{key}: {file}: the file is empty.")
    return files


def uncompressed(name: str) -> Path:
    """A file's name without the ending of its compression."""
    file = Path(name)
    return file.with_suffix("") if file.suffix.lower() in COMPRESSED else file


@lru_cache(maxsize=1)
def standard_input() -> Path:
    """A temporary file with all of standard input, which can be read but once; kept until the process ends.

    Raises:
        LabError: standard input is a terminal, is empty or was closed, or the disk refuses.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise LabError("A path of - reads standard input, and nothing is piped in. Use `... < FILE`, or name the file.")
    handle, name = tempfile.mkstemp(prefix="kto-lab-input-")
    file = Path(name)
    atexit.register(file.unlink, missing_ok=True)
    with disk_errors(file), os.fdopen(handle, "wb") as target:
        shutil.copyfileobj(sys.stdin.buffer, target)
    if file.stat().st_size == 0:
        raise LabError("A path of - reads standard input, and it is empty.")
    return file


@contextmanager
def disk_errors(file: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error for a person."""
    try:
        yield
    except OSError as error:
        raise LabError(
            f"{file} cannot be read: {error.strerror or error}. Check the disk and the permissions."
        ) from error
