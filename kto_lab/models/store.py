"""The reference store: log pi_ref(y|x) on disk, shared by runs and by jobs that run at the same time.

An entry is identified by its scorer (`Scorer`) and by the token ids of prompt and completion, and by nothing else: so
every loss, seed, corruption and adapter shares it. Each scorer has a folder of shards (`store_shards.py`).

There are two forms: the log-probability of a completion, and those of its tokens for a loss that reads them
(`store_tokens.py`). A pass that computes the second keeps the first as well, so it serves every loss. Shards of tokens
are read only where they are asked for, one at a time, and only what was asked for stays in memory.

Nothing is locked, and the store may be on a network file system. A shard is written whole, under the name of its
checksum, and never changed; many small ones are merged, into files that are written before the small ones are removed.
A reader that finds a shard gone lists the folder again; lost entries are computed again. A shard that is corrupt, or of
another scorer, is set aside.

A stored value was computed in a batch with other sequences. So a run with the store equals the run without it up to
the rounding of the number format, and bit for bit where all of its sequences were missing.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.files import cache_dir, remove_abandoned
from kto_lab.models.ragged import owners, places
from kto_lab.models.scorer import FORMAT, Scorer
from kto_lab.models.sequences import Tokens, completion_lengths
from kto_lab.models.store_disk import (
    ABOUT,
    File,
    holdings,
    remove,
    shards_in,
    too_many,
)
from kto_lab.models.store_shards import (
    SUMS,
    CorruptShardError,
    Entries,
    Keys,
    Kind,
    merged,
    read_shard,
    write_shard,
)
from kto_lab.models.store_tokens import (
    TOKENS,
    TokenEntries,
    merged_tokens,
    read_token_shard,
    write_token_shard,
)
from kto_lab.sealed import SET_ASIDE, write_json

MEGABYTE = 10**6
# More small shards than this are merged.
MANY_SHARDS = 32
SMALL_BYTES = 4 * MEGABYTE
# About how large a merged shard may be: merging holds it in memory.
MERGED_BYTES = 64 * MEGABYTE
# How often a folder is listed again because a shard was removed between listing and reading.
LOOKS = 5

AnyEntries = TypeVar("AnyEntries", Entries, TokenEntries)
Read = TypeVar("Read")


class ReferenceStore:
    """The store in one folder."""

    keeps: Literal[True] = True

    def __init__(self, folder: str | None, max_mb: int) -> None:
        """Describe the store; nothing is read or written yet.

        Args:
            folder: the store's folder; None for "reference" in the cache folder.
            max_mb: limit of its size in megabytes. Above it, entries of the least recently used scorers are removed.

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
        """The log-probabilities of one scorer."""
        return LogpCache(self.folder / scorer.key, scorer, self.max_bytes)


class NoStore:
    """No store: nothing is looked up, and nothing is kept."""

    keeps: Literal[False] = False

    def logp_cache(self, scorer: Scorer) -> "LogpCache | None":
        """None."""
        return None


class LogpCache:
    """The log-probabilities of one scorer; those of completions are held in memory, 20 bytes per entry.

    It may be kept for any length of time: each look-up finds what other jobs have written meanwhile.
    """

    def __init__(self, folder: Path, scorer: Scorer, max_bytes: int) -> None:
        """Describe the cache; nothing is read or written yet.

        Args:
            folder: the scorer's, in the store's folder.
            scorer: what computes the log-probabilities.
            max_bytes: limit of the whole store's size.
        """
        self.folder = folder
        self.scorer = scorer
        self.max_bytes = max_bytes
        self._entries = Entries.none()
        self._seen: set[str] = set()
        self._with_tokens = Keys.none()
        self._seen_tokens: set[str] = set()
        self._refused = False

    def lookup(self, sequences: Sequence[Tokens]) -> np.ndarray:
        """(N,) float32 log-probabilities of completions in nats, NaN where none is known."""
        self._begin_pass()
        self._refresh()
        return self._entries.find(Keys.of(sequences))

    def lookup_tokens(self, sequences: Sequence[Tokens]) -> np.ndarray:
        """(T,) float32 log-probabilities of the completions' tokens in nats, NaN where a completion's are not known."""
        self._begin_pass()
        keys, counts = Keys.of(sequences), completion_lengths(sequences)
        # Shard by shard, so that what is not asked for never stays in memory.
        parts = self._read(TOKENS, set(), lambda path: read_token_shard(path, self.scorer.key).among(keys))
        return merged_tokens([TokenEntries.none(), *parts]).find(keys, counts)

    def put(self, sequences: Sequence[Tokens], logps: np.ndarray) -> None:
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
        self._write(lambda: write_shard(self.folder, self.scorer.key, entries), self._seen)

    def put_tokens(self, sequences: Sequence[Tokens], logps: np.ndarray) -> None:
        """Keep log-probabilities of tokens; what is left out is as in `put`, completion by completion.

        Args:
            sequences: N of them.
            logps: (T,) float32 of each token of their completions, completion by completion, nats.
        """
        for keys in self._read(TOKENS, self._seen_tokens, lambda path: read_token_shard(path, self.scorer.key).keys):
            self._know_tokens(keys)
        keys, counts = Keys.of(sequences), completion_lengths(sequences)
        new = ~self._with_tokens.locate(keys)[1]
        new[owners(counts)[~np.isfinite(logps)]] = False
        if not new.any():
            return
        entries = TokenEntries.of(keys.where(new), counts[new], logps[places(counts, new.nonzero()[0])])
        self._know_tokens(entries.keys)
        self._write(lambda: write_token_shard(self.folder, self.scorer.key, entries), self._seen_tokens)

    def settle(self) -> None:
        """Merge small shards where they are many, and keep the store within its bound; for when a pass is over."""
        self._merge(SUMS, read_shard, merged, write_shard, self._seen)
        self._merge(TOKENS, read_token_shard, merged_tokens, write_token_shard, self._seen_tokens)
        found = holdings(self.folder.parent)
        remove(too_many(found, self.max_bytes))
        for holding in found:
            remove_abandoned(holding.path)

    def _begin_pass(self) -> None:
        self._refused = False
        with suppress(OSError):
            os.utime(self.folder / ABOUT)

    def _know_tokens(self, keys: Keys) -> None:
        every = Keys.joined([self._with_tokens, keys])
        self._with_tokens = every.where(every.order(np.zeros(len(every))))

    def _shards(self, kind: Kind) -> list[File]:
        return [file for file in shards_in(self.folder) if file.path.suffix == kind.suffix]

    def _refresh(self) -> None:
        """Read the shards of completions that are new."""
        if parts := self._read(SUMS, self._seen, lambda path: read_shard(path, self.scorer.key)):
            self._entries = merged([self._entries, *parts])

    def _read(self, kind: Kind, seen: set[str], read: Callable[[Path], Read]) -> list[Read]:
        """Apply `read` to the shards that have not been seen, and mark them as seen."""
        parts = []
        for _ in range(LOOKS):
            gone = False
            for file in self._shards(kind):
                if file.path.name in seen:
                    continue
                try:
                    parts.append(read(file.path))
                except FileNotFoundError:
                    gone = True  # merged by another job: its entries are in one that the next look finds
                    continue
                except CorruptShardError as error:
                    self._set_aside(file.path, str(error))
                except OSError as error:
                    self._warn(f"{file.path} cannot be read ({error.strerror})")
                seen.add(file.path.name)
            if not gone:
                break
        return parts

    def _set_aside(self, path: Path, why: str) -> None:
        self._warn(f"{path} is left out, {why}; its log-probs are computed again")
        with suppress(OSError):
            path.replace(path.with_name(path.name + SET_ASIDE))

    def _write(self, write: Callable[[], Path], seen: set[str]) -> None:
        """Write a shard. If the disk refuses, warn once per pass and write no more; the run goes on."""
        if self._refused:
            return
        try:
            if not (self.folder / ABOUT).exists():
                write_json(self.folder / ABOUT, asdict(self.scorer) | {"format": FORMAT})
            seen.add(write().name)
        except LabError as error:
            self._refused = True
            self._warn(f"{error} The run goes on, and what it computes is not kept")

    def _merge(
        self,
        kind: Kind,
        read: Callable[[Path, str], AnyEntries],
        merge: Callable[[Sequence[AnyEntries]], AnyEntries],
        write: Callable[[Path, str, AnyEntries], Path],
        seen: set[str],
    ) -> None:
        """Merge the small shards of a kind, where they are many."""
        small = [file for file in self._shards(kind) if file.size < SMALL_BYTES]
        if len(small) <= MANY_SHARDS:
            return
        for batch in _batches(small, MERGED_BYTES):
            parts, replaced = [], []
            for file in batch:
                with suppress(OSError, CorruptShardError):
                    parts.append(read(file.path, self.scorer.key))
                    replaced.append(file.path)
            if len(parts) < 2:
                continue
            try:
                target = write(self.folder, self.scorer.key, merge(parts))
            except LabError:
                return  # there is no room for both: small ones do as well
            seen.add(target.name)
            for path in replaced:
                if path != target:
                    with suppress(OSError):
                        path.unlink()

    def _warn(self, text: str) -> None:
        narration.say(f"    warning: reference store: {text}.")


def _batches(files: Sequence[File], most_bytes: int) -> Iterator[list[File]]:
    """Files in batches of about so many bytes."""
    batch: list[File] = []
    for file in files:
        batch.append(file)
        if sum(member.size for member in batch) >= most_bytes:
            yield batch
            batch = []
    if batch:
        yield batch
