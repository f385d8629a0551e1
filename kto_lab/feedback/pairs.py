"""Pairs for DPO: those that were given, and joins of desirable with undesirable completions of the same prompt."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from kto_lab.errors import LabError
from kto_lab.feedback.table import pair_ids_of
from kto_lab.hashing import content_hash

Pair = tuple[int, int]
# Texts that are in memory at once.
_CODED = 16384


@dataclass(frozen=True)
class GivenPairs:
    """What is left of the pairs that a table was given; see its column `pair_id`.

    Attributes:
        pairs: the row numbers of the desirable and of the undesirable half, by pair_id.
        agreeing: former pairs whose halves have the same thumb, since one of them was flipped.
        alone: halves whose other half is not in the table.
    """

    pairs: dict[str, Pair]
    agreeing: int
    alone: int


@dataclass(frozen=True)
class PairNoise:
    """How pairs agree with the clean thumbs of their halves, as shares of all pairs.

    Attributes:
        swapped: the chosen answer is undesirable and the rejected one desirable.
        same: both answers are desirable, or both are undesirable.
    """

    swapped: float
    same: float


def given_pairs(table: Dataset) -> GivenPairs:
    """The pairs that a table was given, oriented by their present thumbs: with both flipped, a pair is swapped.

    Args:
        table: a table of examples, one split.

    Raises:
        LabError: a pair has more than two examples.
    """
    halves: dict[str, list[int]] = {}
    for row, pair in enumerate(pair_ids_of(table)):
        if pair is not None:
            halves.setdefault(pair, []).append(row)
    for pair, rows in halves.items():
        if len(rows) > 2:
            raise LabError(f"{len(rows)} examples have the pair_id {pair}: a pair has two. Write the table anew.")
    desirable = table["desirable"][:] if halves else []
    whole = {pair: (rows[0], rows[1]) for pair, rows in halves.items() if len(rows) == 2}
    pairs = {
        pair: (first, second) if desirable[first] else (second, first)
        for pair, (first, second) in whole.items()
        if desirable[first] != desirable[second]
    }
    return GivenPairs(pairs, agreeing=len(whole) - len(pairs), alone=len(halves) - len(whole))


def pair_noise(pairs: Sequence[Pair] | NDArray[np.int64], clean: Sequence[bool]) -> PairNoise:
    """How many pairs are swapped, by the clean thumbs of the rows; zero where there is no pair.

    Args:
        pairs: (pairs, 2), row numbers of the example taken as chosen and of the one taken as rejected.
        clean: `desirable_clean` of each row.
    """
    if not len(pairs):
        return PairNoise(0.0, 0.0)
    chosen, rejected = np.array(clean, dtype=bool)[np.array(pairs)].T
    return PairNoise(swapped=float((~chosen & rejected).mean()), same=float((chosen == rejected).mean()))


def make_pairs(table: Dataset, *, seed: int) -> NDArray[np.int64]:
    """Pairs of a desirable and an undesirable completion of one prompt.

    Pairs that were given (see `given_pairs`) stay as they are, and their halves are joined with nothing else, even
    where the pair no longer is one. Among the other examples, a prompt with d desirable and u undesirable completions
    gives min(d, u) pairs that share no completion. The pairs of a prompt depend only on its own examples and the seed,
    not on the order of the table. Two examples with the same text make no pair, since it would teach nothing.

    Args:
        table: a table of examples, one split.
        seed: decides which completions are joined.

    Returns:
        int64, shape (pairs, 2): the table's row numbers of the desirable and of the undesirable example, prompts in the
        table's order.

    Raises:
        LabError: there is no pair at all, or a pair has more than two examples.
    """
    given = given_pairs(table)
    prompts = _column(table, "prompt_id").combine_chunks().dictionary_encode()
    names, of_row = prompts.dictionary, prompts.indices.to_numpy()
    desirable = _column(table, "desirable").to_numpy()
    rank = np.empty(len(table), dtype=np.int64)
    rank[pc.array_sort_indices(_column(table, "example_id")).to_numpy()] = np.arange(len(table))
    # The rows that are no half of a given pair: by prompt, and within one by identity.
    single = np.flatnonzero([pair is None for pair in pair_ids_of(table)])
    single = single[np.lexsort((rank[single], of_row[single]))]
    ends = np.searchsorted(of_row[single], np.arange(len(names) + 1))
    ups = np.bincount(of_row[single][desirable[single]], minlength=len(names))
    both = (ups > 0) & (ups < np.diff(ends))
    whole: dict[int, list[Pair]] = {}
    for _, pair in sorted(given.pairs.items()):
        whole.setdefault(int(of_row[pair[0]]), []).append(pair)
    texts = codes(table, "completion")
    # Numbers of rows, two for each pair; Python's own integers would take ten times the memory.
    pairs = array("q")
    for number in sorted({*np.flatnonzero(both).tolist(), *whole}):
        pairs.extend(row for pair in whole.get(number, ()) for row in pair)
        if not both[number]:
            continue
        rows = single[ends[number] : ends[number + 1]]
        rng = np.random.default_rng(int(content_hash("pairs", seed, names[number].as_py()), 16))
        up, down = (side[rng.permutation(len(side))] for side in (rows[desirable[rows]], rows[~desirable[rows]]))
        pairs.extend(_disjoint(up, down, texts).ravel().tolist())
    if not pairs and (given.agreeing or given.alone):
        raise LabError(
            f"There are no pairs: of those that were given, {given.agreeing} have halves with the same thumb and "
            f"{given.alone} lack a half. Use a milder corruption, or a loss that needs no pairs (kto, sft)."
        )
    if not pairs:
        raise LabError(
            f"There are no pairs: of {len(names)} prompts, {np.sum(~both)} have completions of one class only, and a "
            "pair needs a desirable and an undesirable completion of one prompt, with different texts. Use a loss that "
            "needs no pairs (kto, sft), or feedback with several completions per prompt."
        )
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def codes(table: Dataset, column: str) -> NDArray[np.uint64]:
    """A number for each text of a column, the same for equal texts: the first eight bytes of its SHA-256."""
    found = np.empty(len(table), dtype=np.uint64)
    texts = table.select_columns([column])
    for start in range(0, len(texts), _CODED):
        part = texts[start : start + _CODED][column]
        digests = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in part)
        found[start : start + len(part)] = np.frombuffer(digests, dtype=np.uint64)
    return found


def _disjoint(up: NDArray[np.int64], down: NDArray[np.int64], texts: NDArray[np.uint64]) -> NDArray[np.int64]:
    """As many pairs as possible without using a completion twice, none of two equal texts; shape (pairs, 2)."""
    differ = texts[up][:, None] != texts[down][None, :]
    if differ.all():
        most = min(len(up), len(down))
        return np.stack((up[:most], down[:most]), axis=1)
    partners = maximum_bipartite_matching(csr_array(differ), perm_type="column")
    return np.stack((up, down[partners]), axis=1)[partners >= 0]


def _column(table: Dataset, name: str) -> pa.ChunkedArray:
    return table.select_columns([name]).with_format("arrow")[:][name]
