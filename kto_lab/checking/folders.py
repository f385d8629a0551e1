"""Checks of the folders that the lab writes into: room, and what a lease needs of the file system."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from kto_lab.checking.row import Row, judged

GIGABYTE = 1e9


def room(name: str, folder: Path, gigabytes: float, *, key: str) -> Row:
    """Whether a folder can be written, and how much is free there.

    Args:
        name: of the folder.
        folder: the folder; where it is not there yet, the one that it will be made in is tried.
        gigabytes: that must be free.
        key: that names another folder.
    """
    limit = f"writable, {gigabytes:g} GB free"
    mend = f"Free some space, or choose another folder ({key})."
    there = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(there).free / GIGABYTE
    except OSError as error:
        return judged(name, f"{folder}: {error.strerror or error}", limit=limit, holds=False, mend=mend)
    return judged(name, f"{folder}, {free:.1f} GB free", limit=limit, holds=free >= gigabytes, mend=mend)


def locks(folder: Path) -> Row:
    """Whether exclusive creation, hard links, locks and atomic renames work: a run's lease and files need them."""
    limit = "each for one process alone"
    mend = "Keep runs on another file system (runs_dir): two processes could take one run here."
    tried = {"exclusive creation": _creates, "hard links": _links, "locks": _locks, "renames": _renames}
    failed = []
    try:
        with tempfile.TemporaryDirectory(dir=_existing(folder), prefix=".check.") as scratch:
            for name, works in tried.items():
                try:
                    holds = works(Path(scratch))
                except OSError as error:
                    holds, name = False, f"{name} ({error.strerror})"
                failed += [] if holds else [name]
    except OSError as error:
        failed = [str(error.strerror or error)]
    said = f"fails: {', '.join(failed)}" if failed else ", ".join(tried)
    return judged("leases", said, limit=limit, holds=not failed, mend=mend)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _creates(scratch: Path) -> bool:
    os.close(os.open(scratch / "own", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        os.close(os.open(scratch / "own", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return True
    return False


def _links(scratch: Path) -> bool:
    (scratch / "one").write_text("one")
    os.link(scratch / "one", scratch / "two")
    try:
        os.link(scratch / "one", scratch / "two")
    except FileExistsError:
        return (scratch / "one").samefile(scratch / "two")
    return False


def _locks(scratch: Path) -> bool:
    with (scratch / "lock").open("w") as mine, (scratch / "lock").open("w") as other:
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _renames(scratch: Path) -> bool:
    for name in ("new", "old"):
        (scratch / name).write_text(name)
    (scratch / "new").replace(scratch / "old")
    return (scratch / "old").read_text() == "new" and not (scratch / "new").exists()
