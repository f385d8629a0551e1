"""Shards of per-token log-probabilities in the reference store, for losses that read them.

    header | first halves of the keys | second halves | tokens of each completion | log-probabilities

20 bytes per entry and 4 per token of its completion. The header is that of `store_shards.py`, with a magic and a suffix
of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kto_lab.models.ragged import owners, places
from kto_lab.models.store_shards import Keys, Kind, read_contents, write_contents

TOKENS = Kind(".token_logps", b"KTOTOK1\n")


@dataclass(frozen=True)
class TokenEntries:
    """Log-probabilities of tokens by the key of their sequence.

    Attributes:
        keys: (N,) sorted by their first halves, none twice.
        counts: (N,) uint32, tokens of each completion.
        values: (T,) float32 log pi_ref of each token, nats, finite; completion by completion.
    """

    keys: Keys
    counts: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, keys: Keys, counts: np.ndarray, values: np.ndarray) -> "TokenEntries":
        """Entries in any order; of several with one key the one with the lowest sum stays."""
        kept = keys.order(np.bincount(owners(counts), weights=values, minlength=len(counts)))
        return cls(keys, counts, values).take(kept)

    @classmethod
    def none(cls) -> "TokenEntries":
        """No entry."""
        return cls(Keys.none(), np.empty(0, dtype="<u4"), np.empty(0, dtype="<f4"))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.counts)

    def take(self, chosen: np.ndarray) -> "TokenEntries":
        """The entries at some indices."""
        values = self.values[places(self.counts, chosen)]
        return TokenEntries(self.keys.where(chosen), self.counts[chosen].astype("<u4"), values.astype("<f4"))

    def among(self, keys: Keys) -> "TokenEntries":
        """The entries of these keys alone, in memory of their own."""
        at, known = self.keys.locate(keys)
        return self.take(np.unique(at[known]))

    def find(self, keys: Keys, counts: np.ndarray) -> np.ndarray:
        """(T,) float32 of the tokens of each key, NaN where there is no entry.

        Args:
            keys: of N sequences.
            counts: (N,) tokens of their completions.
        """
        at, known = self.keys.locate(keys)
        hits = known.nonzero()[0]
        hits = hits[self.counts[at[hits]] == counts[hits]]
        found = np.full(int(counts.sum()), np.nan, dtype="<f4")
        found[places(counts, hits)] = self.values[places(self.counts, at[hits])]
        return found


def merged_tokens(parts: Sequence[TokenEntries]) -> TokenEntries:
    """All entries of several."""
    keys = Keys.joined([part.keys for part in parts])
    counts, values = (np.concatenate([getattr(part, name) for part in parts]) for name in ("counts", "values"))
    return TokenEntries.of(keys, counts, values)


def write_token_shard(folder: Path, scorer: str, entries: TokenEntries) -> Path:
    """Write entries as a shard; see `store_shards.write_contents`."""
    arrays = (entries.keys.high, entries.keys.low, entries.counts, entries.values)
    return write_contents(folder, scorer, TOKENS, len(entries), b"".join(array.tobytes() for array in arrays))


def read_token_shard(path: Path, scorer: str) -> TokenEntries:
    """The entries of a shard; raises as `store_shards.read_contents`."""
    count, contents = read_contents(path, scorer, TOKENS)
    high, low = np.frombuffer(contents, dtype="<u8", count=2 * count).reshape(2, count)
    counts = np.frombuffer(contents, dtype="<u4", count=count, offset=16 * count)
    return TokenEntries(Keys(high, low), counts, np.frombuffer(contents, dtype="<f4", offset=20 * count))
