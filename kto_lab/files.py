"""Files that matter: written whole or not at all, and fetched only with a pinned checksum."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from kto_lab.errors import LabError
from kto_lab.hashing import content_hash, sha256_file
from kto_lab.processes import machine, started

# Scratch folders of `scratch_beside`: the target, the owner, and what makes the name new.
SCRATCH = re.compile(r"\.(?P<target>.+)\.(?P<owner>(?P<machine>[0-9a-f]{12})-(?P<pid>\d+)-\d+)\.\w{8}")
# Scratch of another machine that nobody has written into for so long is abandoned.
RESTED_SECONDS = 24 * 3600


def cache_dir() -> Path:
    """Where converted models and fetched data live: $KTO_LAB_CACHE, else ~/.cache/kto-lab."""
    return Path(os.environ.get("KTO_LAB_CACHE") or Path.home() / ".cache" / "kto-lab")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path (file or folder) beside `target`, renamed onto it when the block ends without an error.

    A reader sees the old content or the new, never a part. Raises LabError when the disk refuses.
    """
    try:
        with scratch_beside(target) as scratch:
            partial = scratch / target.name
            yield partial
            _flush(partial)
            if partial.is_dir() and target.is_dir():
                target.rename(scratch / "replaced")
            partial.replace(target)
    except OSError as error:
        raise LabError(
            f"Could not write {target}: {error.strerror or error}. Free some space or choose another folder."
        ) from error


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, removed at the end of the block with all that is in it.

    Its name says whose it is, so that what a killed process leaves can be told from what is being written. What killed
    writers of the same target have left here is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for other in target.parent.iterdir():
        if other.name.startswith(f".{target.name}.") and _is_abandoned(other):
            remove(other)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.{_owner(os.getpid())}.", dir=target.parent))
    try:
        yield scratch
    finally:
        remove(scratch)


def _owner(pid: int) -> str:
    """A process of this machine, as the names of its scratch folders have it."""
    return f"{_here()}-{pid}-{100 * started(pid):.0f}"


@cache
def _here() -> str:
    return content_hash(machine())[:12]


def abandoned(root: Path, *, alone: bool = False) -> list[Path]:
    """The scratch folders in a folder, and in those below it, whose owner was killed.

    Args:
        root: the folder.
        alone: nobody else writes there, so that scratch of another machine is abandoned, too. Processes of other
            machines cannot be seen from here, so otherwise it is once nobody has written into it for a day.
    """
    found: list[Path] = []
    for folder, names, _ in os.walk(root):
        scratch = {name for name in names if SCRATCH.fullmatch(name)}
        names[:] = [name for name in names if name not in scratch]
        found += [Path(folder, name) for name in sorted(scratch) if _is_abandoned(Path(folder, name), alone=alone)]
    return found


def remove_abandoned(root: Path, *, alone: bool = False) -> None:
    """Remove what `abandoned` finds."""
    for scratch in abandoned(root, alone=alone):
        remove(scratch)


def _is_abandoned(scratch: Path, *, alone: bool = False) -> bool:
    name = SCRATCH.fullmatch(scratch.name)
    if name is None or scratch.is_symlink():
        return False
    if name["machine"] == _here():
        return _owner(int(name["pid"])) != name["owner"]
    return alone or _has_rested(scratch)


def _has_rested(folder: Path) -> bool:
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
    return newest < time.time() - RESTED_SECONDS


def _flush(path: Path) -> None:
    """Ask the disk to hold the content before the rename makes it visible."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, as far as that goes; nothing where there is none."""
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def is_name(text: Any) -> bool:
    """Whether a text can be the name of a file or folder in any other: it leads nowhere else, and is not hidden."""
    return isinstance(text, str) and bool(re.fullmatch(r"\w[\w. +@=,-]*", text))


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_path(target) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write JSON atomically. NaN and infinity are refused: a record never holds them."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def fetch_from_registry(requirement: str, filename: str, sha256: str, *, source: bool = False) -> Path:
    """Fetch one file of a Python package from the registry that pip is configured for, into the cache.

    Only the named distribution is fetched, none of its dependencies. Nothing of a wheel is run; of a source
    distribution pip runs the step that tells its metadata.

    Args:
        requirement: exact requirement, such as "name==1.2.3".
        filename: the distribution file's name.
        sha256: its checksum, in hex.
        source: fetch the source distribution rather than the wheel.

    Returns:
        The path of the verified file in the cache.

    Raises:
        LabError: no registry can be reached, or the checksum differs.
    """
    target = cache_dir() / "downloads" / filename
    if target.exists() and sha256_file(target) == sha256:
        return target
    with atomic_path(target) as partial:
        kind = "--no-binary" if source else "--only-binary"
        flags = [kind, requirement.split("==")[0]]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            *flags,
            "--dest",
            str(partial.parent),
            requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not partial.exists():
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise LabError(
                f"Could not fetch {requirement} from the package registry: {reason}. "
                f"Check the network, or put {filename} into {target.parent} yourself."
            )
        if (found := sha256_file(partial)) != sha256:
            raise LabError(f"{filename} has checksum {found}, expected {sha256}. It is not the pinned file; not used.")
    return target
