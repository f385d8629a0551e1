"""A shard of the reference store: one file of log-probabilities, written once and never changed.

    magic | scorer | entries | checksum | first halves of the keys | second halves | log-probabilities

20 bytes per entry. The checksum covers all the rest and names the file, so that two jobs which write the same entries
write the same file. Keys are sorted. Nothing here knows of models. Shards of per-token log-probabilities have the same
header and other contents; see `store_tokens.py`.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kto_lab.files import atomic_path
from kto_lab.models.sequences import Tokens

# Magic, the scorer's key, how many entries, checksum.
HEADER = struct.Struct("<8s8sQ16s")
ENTRY_BYTES = 20


@dataclass(frozen=True)
class Kind:
    """A kind of shard.

    Attributes:
        suffix: of their file names.
        magic: eight bytes that they start with.
    """

    suffix: str
    magic: bytes


SUMS = Kind(".logps", b"KTOREF1\n")


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
    def of(cls, sequences: Sequence[Tokens]) -> "Keys":
        """128 bits of each sequence: of the ids of its prompt and of its completion, and where one ends."""
        digests = bytearray()
        for sequence in sequences:
            prompt, completion = sequence.prompt, sequence.completion
            ids = struct.pack(f"<{1 + len(prompt) + len(completion)}I", len(prompt), *prompt, *completion)
            digests += hashlib.blake2b(ids, digest_size=16).digest()
        halves = np.frombuffer(bytes(digests), dtype="<u8").reshape(-1, 2)
        return cls(halves[:, 0].copy(), halves[:, 1].copy())

    @classmethod
    def none(cls) -> "Keys":
        """No key."""
        return cls(np.empty(0, dtype="<u8"), np.empty(0, dtype="<u8"))

    @classmethod
    def joined(cls, parts: Sequence["Keys"]) -> "Keys":
        """The keys of several, one after another."""
        return cls(np.concatenate([part.high for part in parts]), np.concatenate([part.low for part in parts]))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.high)

    def where(self, wanted: np.ndarray) -> "Keys":
        """The keys at some places: indices, or (N,) bool."""
        return Keys(self.high[wanted], self.low[wanted])

    def order(self, values: np.ndarray) -> np.ndarray:
        """Indices that sort the keys, each key once: of several with one key the one of the lowest value.

        So jobs whose values differ by rounding agree. Keys are compared by their first halves alone: of two sequences
        that agree there (at random, one in 10^19) one is left out.
        """
        order = np.lexsort((values, self.low, self.high))
        high = self.high[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = high[1:] != high[:-1]
        kept: np.ndarray = order[first]
        return kept

    def locate(self, keys: "Keys") -> tuple[np.ndarray, np.ndarray]:
        """Where other keys stand among these, which are sorted: (N,) indices, and (N,) bool of those that are there."""
        if not len(self):
            return np.zeros(len(keys), dtype=np.intp), np.zeros(len(keys), dtype=bool)
        at = np.minimum(np.searchsorted(self.high, keys.high), len(self) - 1)
        return at, (self.high[at] == keys.high) & (self.low[at] == keys.low)


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
        """Entries in any order; of several values of one key the lowest stays."""
        kept = keys.order(values)
        return cls(keys.where(kept), values[kept].astype("<f4"))

    @classmethod
    def none(cls) -> "Entries":
        """No entry."""
        return cls(Keys.none(), np.empty(0, dtype="<f4"))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.values)

    def find(self, keys: Keys) -> np.ndarray:
        """(N,) float32 of each key, NaN where there is none."""
        at, known = self.keys.locate(keys)
        found = np.full(len(keys), np.nan, dtype="<f4")
        found[known] = self.values[at[known]]
        return found


def merged(parts: Sequence[Entries]) -> Entries:
    """All entries of several."""
    keys = Keys.joined([part.keys for part in parts])
    return Entries.of(keys, np.concatenate([part.values for part in parts]))


def write_shard(folder: Path, scorer: str, entries: Entries) -> Path:
    """Write entries as a shard; see `write_contents`."""
    contents = b"".join(part.tobytes() for part in (entries.keys.high, entries.keys.low, entries.values))
    return write_contents(folder, scorer, SUMS, len(entries), contents)


def read_shard(path: Path, scorer: str) -> Entries:
    """The entries of a shard; raises as `read_contents`."""
    count, contents = read_contents(path, scorer, SUMS)
    high, low = np.frombuffer(contents, dtype="<u8", count=2 * count).reshape(2, count)
    return Entries(Keys(high, low), np.frombuffer(contents, dtype="<f4", offset=16 * count))


def write_contents(folder: Path, scorer: str, kind: Kind, count: int, contents: bytes) -> Path:
    """Write a shard into a folder, whole or not at all, and return its path.

    Args:
        folder: of the scorer.
        scorer: its key, sixteen hex digits.
        kind: what the contents are.
        count: entries in them.
        contents: what follows the header.

    Raises:
        LabError: the disk refuses.
    """
    checksum = _checksum(scorer, kind, count, contents)
    target = folder / f"{checksum.hex()}{kind.suffix}"
    if not target.exists():
        with atomic_path(target) as partial:
            partial.write_bytes(HEADER.pack(kind.magic, bytes.fromhex(scorer), count, checksum) + contents)
    return target


def read_contents(path: Path, scorer: str, kind: Kind) -> tuple[int, bytes]:
    """How many entries a shard has, and what follows its header.

    Raises:
        CorruptShardError: the file is truncated, changed, of another scorer, or not a shard of this kind.
        OSError: it cannot be read, or is gone.
    """
    whole = path.read_bytes()
    if len(whole) < HEADER.size or not whole.startswith(kind.magic):
        raise CorruptShardError("it is not a shard")
    _, owner, count, checksum = HEADER.unpack_from(whole)
    contents = whole[HEADER.size :]
    if checksum != _checksum(owner.hex(), kind, count, contents):
        raise CorruptShardError("its checksum does not match")
    if owner.hex() != scorer:
        raise CorruptShardError("it belongs to another reference")
    return count, contents


def entries_in(size: int) -> int:
    """Entries of a whole shard of so many bytes."""
    return max(size - HEADER.size, 0) // ENTRY_BYTES


def _checksum(scorer: str, kind: Kind, count: int, contents: bytes) -> bytes:
    about = kind.magic + bytes.fromhex(scorer) + count.to_bytes(8, "little")
    return hashlib.blake2b(contents, digest_size=16, key=about).digest()
