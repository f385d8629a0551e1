"""Files that a later command reads back: each carries a checksum, and reading verifies it.

| content            | where its checksum is                                                                   |
|--------------------|-----------------------------------------------------------------------------------------|
| JSON               | its last key, "sha256", of all that stands before                                       |
| text, such as YAML | its last line, a comment, of all that stands before                                     |
| a model's folder   | `SHA256SUMS`, one line for each file, which `sha256sum --check` of coreutils reads, too |

A file and its checksum are one file, written in one rename, so a crash cannot leave the one without the other. JSON
without a checksum is read all the same: earlier versions wrote none. That hides no damage: JSON that is cut or holds
zeros is not JSON, and where the checksum alone is damaged, the content is whole.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orjson

from kto_lab import files, narration
from kto_lab.errors import LabError
from kto_lab.hashing import sha256_as_it_is

SUMS = "SHA256SUMS"
# Ends the name of a damaged file or folder that was set aside.
SET_ASIDE = ".damaged"
_JSON_SEAL = ',\n  "sha256": "{}"\n}}\n'
_TEXT_SEAL = "# sha256 {}\n"
_JSON_END, _TEXT_END = (
    re.compile(re.escape(seal.format("HEX").encode()).replace(b"HEX", b"([0-9a-f]{64})"))
    for seal in (_JSON_SEAL, _TEXT_SEAL)
)
_JSON_LENGTH, _TEXT_LENGTH = (len(seal.format("0" * 64)) for seal in (_JSON_SEAL, _TEXT_SEAL))
_CHANGED = "its content is not what its checksum says"

Value = TypeVar("Value")


class DamagedError(LabError):
    """A file is not as it was written."""

    def __init__(self, path: Path | str, why: str, mend: str) -> None:
        """Say which file it is, how the damage shows, and what a person can do."""
        super().__init__(f"{path} is damaged: {why}. {mend}")
        self.path, self.why = Path(path), why


def write_json(target: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with its checksum, whole or not at all. NaN and infinity are refused.

    Args:
        target: the file.
        value: not empty, and without a key "sha256".
    """
    body = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    files.write_text(target, body + _JSON_SEAL.format(hashlib.sha256(body.encode()).hexdigest()))


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """The mapping of a JSON file.

    Args:
        path: the file.
        mend: what a person can do where it is damaged; a sentence.

    Raises:
        DamagedError: it is damaged.
        OSError: there is none, or it cannot be read.
    """
    return parse_json(path.read_bytes(), path, mend)


def parse_json(content: bytes, path: Path | str, mend: str) -> dict[str, Any]:
    """As `read_json`, of what was read from a file already."""
    end = _JSON_END.fullmatch(content[-_JSON_LENGTH:])
    if end and hashlib.sha256(memoryview(content)[:-_JSON_LENGTH]).hexdigest().encode() != end[1]:
        raise DamagedError(path, _CHANGED, mend)
    try:
        value = orjson.loads(content)
    except ValueError as error:
        raise DamagedError(path, f"it is no JSON ({error})", mend) from error
    if not isinstance(value, dict):
        raise DamagedError(path, "it holds no mapping", mend)
    if end:
        del value["sha256"]
    return value


def write_text(target: Path, text: str) -> None:
    """Write lines of text with their checksum in a comment, whole or not at all."""
    files.write_text(target, _with_checksum(text))


def _with_checksum(text: str) -> str:
    return text + _TEXT_SEAL.format(hashlib.sha256(text.encode()).hexdigest())


def read_text(path: Path, mend: str) -> str:
    """The lines of a text file without the comment that holds their checksum; arguments and errors as `read_json`."""
    content = path.read_bytes()
    text, end = content[:-_TEXT_LENGTH], _TEXT_END.fullmatch(content[-_TEXT_LENGTH:])
    if end is None:
        raise DamagedError(path, "it does not end with its checksum", mend)
    if hashlib.sha256(text).hexdigest().encode() != end[1]:
        raise DamagedError(path, _CHANGED, mend)
    return text.decode()


def set_aside(path: Path, error: DamagedError, what_now: str) -> None:
    """Rename what is damaged, so that it can be made again and still be looked at, and say so.

    Args:
        path: the file, or the folder that it is in.
        error: which file it is, and how the damage shows.
        what_now: what is done without it, such as "it is measured again".

    Raises:
        DamagedError: the disk refuses.
    """
    aside = path.with_name(path.name + SET_ASIDE)
    files.remove(aside)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another process of this run was faster
    except OSError as refused:
        mend = f"It cannot be set aside ({refused.strerror}): remove {path}, and run again."
        raise DamagedError(error.path, error.why, mend) from refused
    narration.say(f"    warning: {error.path} is damaged: {error.why}. {path.name} is kept as {aside.name}; {what_now}")


def recover(path: Path, read: Callable[[Path, str], Value], what_now: str) -> Value | None:
    """What a file holds that can be made again; None where there is none, and where it is damaged: it is set aside.

    Args:
        path: the file.
        read: `read_json`, or another reader that takes the path and what a person can do.
        what_now: see `set_aside`.
    """
    try:
        return read(path, "")
    except FileNotFoundError:
        return None
    except DamagedError as error:
        set_aside(path, error, what_now)
        return None


def sums(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of files, and of the files in folders, by their paths in `folder`; a missing one is left out.

    A folder that has `SHA256SUMS` stands with the sum of that alone.
    """
    found = {}
    for path in paths:
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = sha256_as_it_is(path)
        elif path.is_dir():
            listed = path / SUMS
            found |= sums(folder, [listed] if listed.is_file() else sorted(path.iterdir()))
    return found


def check_sum(path: Path, expected: str, mend: str) -> None:
    """Refuse a file that is missing, or whose SHA-256 is another.

    Raises:
        DamagedError: it is so; `mend` says what a person can do.
    """
    try:
        found = sha256_as_it_is(path)
    except FileNotFoundError:
        raise DamagedError(path, "it is missing", mend) from None
    if found != expected:
        raise DamagedError(path, f"its SHA-256 is {found}, and was {expected}", mend)


def write_sums(folder: Path) -> None:
    """Write the list of a folder's files and their checksums into it, while it has its temporary name still."""
    lines = [f"{digest}  {name}\n" for name, digest in sums(folder, sorted(folder.iterdir())).items()]
    (folder / SUMS).write_text(_with_checksum("".join(lines)), encoding="utf-8")


def check_sums(folder: Path, mend: str) -> None:
    """Verify the files of a folder that has a list of their checksums; one that has none is as it is.

    A file is read in full once per process, and again where its size or its time of change has become another.

    Raises:
        DamagedError: a file is not as it was listed, or the list itself is damaged.
    """
    listed = folder / SUMS
    if not listed.is_file():
        return
    for line in read_text(listed, mend).splitlines():
        digest, _, name = line.partition("  ")
        check_sum(folder / name, digest, mend)
