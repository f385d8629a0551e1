"""A shard of the reference store: one file of log-probabilities, written once and never changed.

    magic | scorer | entries | checksum | first halves of the keys | second halves | log-probabilities

20 bytes an entry. The checksum is over all the rest, and names the file, so that two jobs which write the same entries
write the same file. Keys are sorted. Nothing here knows of models.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kto_lab.files import atomic_path

if TYPE_CHECKING:
    from kto_lab.models.sequences import Tokens

SUFFIX = ".logps"
MAGIC = b"KTOREF1\n"
# Magic, the scorer's key, how many entries, checksum.
HEADER = struct.Struct("<8s8sQ16s")
ENTRY_BYTES = 20


class CorruptShardError(Exception):
    """A file is not a complete shard of the scorer asked for."""


@dataclass(frozen=True)
class Keys:
    """Hashes of sequences.

    Attributes:
        high: (N,) uint64, first half of each key.
        low: (N,) uint64, second half.
    """

    high: np.ndarray
    low: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence["Tokens"]) -> "Keys":
        """128 bits of each sequence: of the ids of its prompt and of its completion, and where one ends."""
        digests = bytearray()
        for sequence in sequences:
            prompt, completion = sequence.prompt, sequence.completion
            ids = struct.pack(f"<{1 + len(prompt) + len(completion)}I", len(prompt), *prompt, *completion)
            digests += hashlib.blake2b(ids, digest_size=16).digest()
        halves = np.frombuffer(bytes(digests), dtype="<u8").reshape(-1, 2)
        return cls(halves[:, 0].copy(), halves[:, 1].copy())

    def where(self, wanted: np.ndarray) -> "Keys":
        """The keys at some places: indices, or (N,) bool."""
        return Keys(self.high[wanted], self.low[wanted])


@dataclass(frozen=True)
class Entries:
    """Log-probabilities by key.

    Attributes:
        keys: (N,) sorted by their first halves, none twice.
        values: (N,) float32 log pi_ref(y|x), nats, finite.
    """

    keys: Keys
    values: np.ndarray

    @classmethod
    def of(cls, keys: Keys, values: np.ndarray) -> "Entries":
        """Entries in any order. Of several values of one key the lowest stays: jobs that differ in rounding agree."""
        order = np.lexsort((values, keys.low, keys.high))
        high = keys.high[order]
        # By the first half alone: of two sequences that agree there (at random, one in 10^19) one is not kept.
        first = np.ones(len(order), dtype=bool)
        first[1:] = high[1:] != high[:-1]
        kept = order[first]
        return cls(keys.where(kept), values[kept].astype("<f4"))

    @classmethod
    def none(cls) -> "Entries":
        """No entry."""
        return cls(Keys(np.empty(0, dtype="<u8"), np.empty(0, dtype="<u8")), np.empty(0, dtype="<f4"))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.values)

    def find(self, keys: Keys) -> np.ndarray:
        """(N,) float32 of each key, NaN where there is none."""
        if not len(self):
            return np.full(len(keys.high), np.nan, dtype="<f4")
        at = np.minimum(np.searchsorted(self.keys.high, keys.high), len(self) - 1)
        same = (self.keys.high[at] == keys.high) & (self.keys.low[at] == keys.low)
        return np.where(same, self.values[at], np.float32(np.nan))


def merged(parts: Sequence[Entries]) -> Entries:
    """All entries of several."""
    high, low = (np.concatenate([getattr(part.keys, half) for part in parts]) for half in ("high", "low"))
    return Entries.of(Keys(high, low), np.concatenate([part.values for part in parts]))


def write_shard(folder: Path, scorer: str, entries: Entries) -> Path:
    """Write a shard into a folder, whole or not at all, and return its path.

    Args:
        folder: of the scorer.
        scorer: its key, sixteen hex digits.
        entries: what to write.

    Raises:
        LabError: the disk refuses.
    """
    payload = b"".join(part.tobytes() for part in (entries.keys.high, entries.keys.low, entries.values))
    checksum = _checksum(scorer, len(entries), payload)
    target = folder / f"{checksum.hex()}{SUFFIX}"
    if not target.exists():
        with atomic_path(target) as partial:
            partial.write_bytes(HEADER.pack(MAGIC, bytes.fromhex(scorer), len(entries), checksum) + payload)
    return target


def read_shard(path: Path, scorer: str) -> Entries:
    """The entries of a shard.

    Raises:
        CorruptShardError: the file is truncated, changed, of another scorer, or not a shard.
        OSError: it cannot be read, or is gone.
    """
    content = path.read_bytes()
    if len(content) < HEADER.size or not content.startswith(MAGIC):
        raise CorruptShardError("it is not a shard")
    _, owner, count, checksum = HEADER.unpack_from(content)
    payload = content[HEADER.size :]
    if not count or len(payload) != count * ENTRY_BYTES:
        raise CorruptShardError("its length is not the one in its header")
    if checksum != _checksum(owner.hex(), count, payload):
        raise CorruptShardError("its checksum does not match")
    if owner.hex() != scorer:
        raise CorruptShardError("it belongs to another reference")
    high, low = np.frombuffer(payload, dtype="<u8", count=2 * count).reshape(2, count)
    values = np.frombuffer(payload, dtype="<f4", offset=16 * count)
    return Entries(Keys(high, low), values)


def entries_in(size: int) -> int:
    """Entries of a whole shard of so many bytes."""
    return max(size - HEADER.size, 0) // ENTRY_BYTES


def _checksum(scorer: str, count: int, payload: bytes) -> bytes:
    about = MAGIC + bytes.fromhex(scorer) + count.to_bytes(8, "little")
    return hashlib.blake2b(payload, digest_size=16, key=about).digest()
