"""The reference store: log pi_ref(y|x) on disk, shared by runs and by jobs that run at the same time.

A log-probability is known by what gave it (`Scorer`) and by the ids of its prompt and its completion, and by nothing
else: so every loss, seed, corruption and adapter finds it. Each scorer has a folder of shards (`store_shards.py`).

Nothing is locked, and it may lie on a network file system. A shard is written whole, under the name of its checksum,
and never changed; many small ones are merged into one, which is written before they are removed. Whoever finds a shard
gone looks again; what is lost is computed again. A shard that is corrupt, or another scorer's, is set aside.

What the store gives is what was computed once, in a batch with other sequences. So a run with the store is the run
without it to the rounding of the number format, and bit for bit where all of its sequences were missing.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.files import cache_dir, write_json
from kto_lab.models.scorer import FORMAT, Scorer
from kto_lab.models.store_disk import (
    ABOUT,
    SET_ASIDE,
    File,
    holdings,
    remove,
    remove_left_behind,
    shards_in,
    too_many,
)
from kto_lab.models.store_shards import (
    CorruptShardError,
    Entries,
    Keys,
    merged,
    read_shard,
    write_shard,
)

if TYPE_CHECKING:
    from kto_lab.models.sequences import Tokens

MEGABYTE = 10**6
# More small shards than this are merged.
MANY_SHARDS = 32
SMALL_BYTES = 4 * MEGABYTE
# How often a folder is listed again because a shard went between the listing and the reading.
LOOKS = 5


class ReferenceStore:
    """The store in one folder."""

    keeps: Literal[True] = True

    def __init__(self, folder: str | None, max_mb: int) -> None:
        """Describe the store; nothing is read or written yet.

        Args:
            folder: where it lies; None: "reference" in the cache folder.
            max_mb: megabytes that it may take. Beyond it leave the scorers that were used longest ago.

        Raises:
            LabError: `max_mb` is less than 1.
        """
        if max_mb < 1:
            raise LabError(
                f"reference_store.max_mb is {max_mb}; it must be at least 1. Use reference_store=none for none."
            )
        self.folder = Path(folder).expanduser() if folder else cache_dir() / "reference"
        self.max_bytes = max_mb * MEGABYTE

    def logp_cache(self, scorer: Scorer) -> "LogpCache | None":
        """Where what one scorer gave is looked up and kept."""
        return LogpCache(self.folder / scorer.key, scorer, self.max_bytes)


class NoStore:
    """Nothing is looked up, and nothing kept."""

    keeps: Literal[False] = False

    def logp_cache(self, scorer: Scorer) -> "LogpCache | None":
        """Nothing."""
        return None


class LogpCache:
    """What one scorer gave: an index in memory (20 bytes an entry) of the shards in its folder.

    It may be kept for as long as one likes: each look-up finds what other jobs have written meanwhile.
    """

    def __init__(self, folder: Path, scorer: Scorer, max_bytes: int) -> None:
        """Describe the cache; nothing is read or written yet.

        Args:
            folder: the scorer's, in the store's folder.
            scorer: what gives the log-probabilities.
            max_bytes: that the whole store may take.
        """
        self.folder = folder
        self.scorer = scorer
        self.max_bytes = max_bytes
        self._entries = Entries.none()
        self._seen: set[str] = set()
        self._refused = False

    def lookup(self, sequences: Sequence["Tokens"]) -> np.ndarray:
        """(N,) float32 log-probabilities in nats, NaN where none is known."""
        self._refused = False
        self._refresh()
        with suppress(OSError):
            os.utime(self.folder / ABOUT)
        return self._entries.find(Keys.of(sequences))

    def put(self, sequences: Sequence["Tokens"], logps: np.ndarray) -> None:
        """Keep log-probabilities that were computed. What is not finite is not kept, nor what is known already.

        Args:
            sequences: N of them.
            logps: (N,) float32, nats.
        """
        self._refresh()
        keys = Keys.of(sequences)
        new = np.isfinite(logps) & np.isnan(self._entries.find(keys))
        if not new.any():
            return
        entries = Entries.of(keys.where(new), logps[new])
        self._entries = merged([self._entries, entries])
        self._write(entries)

    def settle(self) -> None:
        """Merge small shards where they are many, and keep the store within its bound; for when a pass is over."""
        small = [file for file in self._shards() if file.size < SMALL_BYTES]
        if len(small) > MANY_SHARDS:
            self._merge(small)
        found = holdings(self.folder.parent)
        remove(too_many(found, self.max_bytes))
        remove_left_behind(found)

    def _shards(self) -> list[File]:
        return [file for file in shards_in(self.folder) if not file.path.name.endswith(SET_ASIDE)]

    def _refresh(self) -> None:
        """Read the shards that are new."""
        for _ in range(LOOKS):
            parts, gone = [self._entries], False
            for file in self._shards():
                if file.path.name in self._seen:
                    continue
                try:
                    parts.append(read_shard(file.path, self.scorer.key))
                except FileNotFoundError:
                    gone = True  # merged by another job: its entries are in one that the next look finds
                    continue
                except CorruptShardError as error:
                    self._set_aside(file.path, str(error))
                except OSError as error:
                    self._warn(f"{file.path} cannot be read ({error.strerror})")
                self._seen.add(file.path.name)
            if len(parts) > 1:
                self._entries = merged(parts)
            if not gone:
                return

    def _set_aside(self, path: Path, why: str) -> None:
        self._warn(f"{path} is left out, {why}; its log-probs are computed again")
        with suppress(OSError):
            path.replace(path.with_name(path.name + SET_ASIDE))

    def _write(self, entries: Entries) -> None:
        """Write a shard. A disk that refuses is no reason to stop: it is said once a pass, and no more is written."""
        if self._refused:
            return
        try:
            if not (self.folder / ABOUT).exists():
                write_json(self.folder / ABOUT, asdict(self.scorer) | {"format": FORMAT})
            self._seen.add(write_shard(self.folder, self.scorer.key, entries).name)
        except LabError as error:
            self._refused = True
            self._warn(f"{error} The run goes on, and what it computes is not kept")

    def _merge(self, small: Sequence[File]) -> None:
        parts, read = [], []
        for file in small:
            with suppress(OSError, CorruptShardError):
                parts.append(read_shard(file.path, self.scorer.key))
                read.append(file.path)
        if len(read) < 2:
            return
        try:
            target = write_shard(self.folder, self.scorer.key, merged(parts))
        except LabError:
            return  # there is no room for both: small ones do as well
        self._seen.add(target.name)
        for path in read:
            if path != target:
                with suppress(OSError):
                    path.unlink()

    def _warn(self, text: str) -> None:
        narration.say(f"    warning: reference store: {text}.")
