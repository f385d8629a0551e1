"""The folder of the reference store as files: listing, eviction and removal.

    reference/<scorer>/scorer.json              the scorer in words; its time is that of the last use
    reference/<scorer>/<checksum>.logps         log-probabilities of completions
    reference/<scorer>/<checksum>.token_logps   log-probabilities of their tokens

Only files that the store itself has written are ever removed. Nothing here reads a shard.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_lab.models.store_shards import SUMS, entries_in
from kto_lab.models.store_tokens import TOKENS
from kto_lab.sealed import SET_ASIDE, DamagedError, read_json

ABOUT = "scorer.json"
# A shard written this shortly before the newest one may be of a job that has just begun.
JUST_WRITTEN_SECONDS = 3600
_SCORER = re.compile(r"[0-9a-f]{16}")
_SUFFIX = "|".join(re.escape(kind.suffix) for kind in (SUMS, TOKENS))
_SHARD = re.compile(rf"[0-9a-f]{{32}}({_SUFFIX})({re.escape(SET_ASIDE)})?")


@dataclass(frozen=True)
class File:
    """A shard on disk.

    Attributes:
        path: where.
        size: bytes.
        time: when it was written, seconds by the file system's clock.
    """

    path: Path
    size: int
    time: float

    @property
    def is_set_aside(self) -> bool:
        """Whether it was set aside."""
        return self.path.name.endswith(SET_ASIDE)


@dataclass(frozen=True)
class Holding:
    """The files of one scorer.

    Attributes:
        path: the scorer's folder; its name is the scorer's key.
        about: the scorer in words; empty where the file that says so is missing.
        files: its shards, those set aside included.
        last_used: when a run last looked something up, or wrote; seconds by the file system's clock.
    """

    path: Path
    about: dict[str, Any]
    files: list[File]
    last_used: float

    @property
    def entries(self) -> int:
        """Completions whose log-probability is known, those that two shards have counted twice."""
        return sum(entries_in(file.size) for file in self.files if file.path.suffix == SUMS.suffix)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)


def holdings(root: Path) -> list[Holding]:
    """The scorers in a store's folder, most recently used first; empty if there is no such folder."""
    try:
        folders = [path for path in root.iterdir() if _SCORER.fullmatch(path.name) and not path.is_symlink()]
    except OSError:
        return []
    found = [_holding(folder) for folder in folders if folder.is_dir()]
    return sorted(found, key=lambda holding: holding.last_used, reverse=True)


def shards_in(folder: Path) -> list[File]:
    """The shards of a scorer's folder by name, those set aside included; empty where it cannot be read."""
    found = []
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            with suppress(OSError):  # removed by another job since it was listed
                if _SHARD.fullmatch(path.name):
                    about = path.stat()
                    found.append(File(path, about.st_size, about.st_mtime))
    return found


def _holding(folder: Path) -> Holding:
    about, files, times = {}, shards_in(folder), [0.0]
    with suppress(OSError, DamagedError):
        times.append((folder / ABOUT).stat().st_mtime)
        about = read_json(folder / ABOUT, "")
    return Holding(folder, about, files, max(times + [file.time for file in files]))


def too_many(found: Sequence[Holding], max_bytes: int) -> list[File]:
    """Files to remove so that the rest fits: those set aside, then the oldest of the least recently used scorers.

    Shards that were just written stay, even if they alone exceed the limit.
    """
    newest = max((file.time for holding in found for file in holding.files), default=0.0)
    order = [file for holding in found for file in holding.files if file.is_set_aside]
    for holding in sorted(found, key=lambda holding: holding.last_used):
        order += sorted((file for file in holding.files if not file.is_set_aside), key=lambda file: file.time)
    over = sum(holding.size for holding in found) - max_bytes
    leaving = []
    for file in order:
        if over <= 0:
            break
        if file.is_set_aside or file.time < newest - JUST_WRITTEN_SECONDS:
            leaving.append(file)
            over -= file.size
    return leaving


def remove(files: Sequence[File]) -> int:
    """Remove shards, and the folder of a scorer that has none left; return the bytes that were freed."""
    freed = 0
    for file in files:
        with suppress(OSError):  # a disk that is read-only, or another job was faster
            file.path.unlink()
            freed += file.size
    for folder in {file.path.parent for file in files}:
        if not shards_in(folder):
            with suppress(OSError):  # likewise
                (folder / ABOUT).unlink(missing_ok=True)
                folder.rmdir()
    return freed
