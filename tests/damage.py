"""What disks do to files that lie on them: damage in place."""

from collections.abc import Callable
from pathlib import Path

from kto_lab.runs.record import RECORD
from kto_lab.sealed import read_json, write_json


def flip(file: Path) -> None:
    """Flip a bit of the byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    """Lose the second half."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def zero(file: Path) -> None:
    """Lose a block in the middle, a third of the file: it reads as zeros."""
    content = file.read_bytes()
    third = max(len(content) // 3, 1)
    file.write_bytes(content[:third] + bytes(third) + content[2 * third :])


DAMAGES: dict[str, Callable[[Path], None]] = {"flip": flip, "truncate": truncate, "zero": zero}


def without_checksums(run: Path) -> Path:
    """Let the record of a run folder list no checksums, as those of earlier versions, or a forger's; the folder."""
    found = read_json(run / RECORD, "")
    del found["checksums"]
    write_json(run / RECORD, found)
    return run
