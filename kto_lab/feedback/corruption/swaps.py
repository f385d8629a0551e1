"""Swaps of pairs: the noise of preference data, apart from flips of thumbs.

A flip changes the label of one example, before pairs are made; a swap exchanges the two sides of a pair and leaves both
thumbs as they are. Losses of single thumbs never see one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from kto_lab.feedback.corruption.changes import Corrupted, PairSwaps
from kto_lab.feedback.corruption.draws import check_rate, check_seed, lowest
from kto_lab.hashing import content_hash


@dataclass(frozen=True, eq=False)
class Swapped:
    """Pairs, some of them swapped.

    Attributes:
        pairs: int64, shape (pairs, 2): row numbers of the examples that the loss takes as chosen and as rejected.
        swapped: pairs that were swapped.
        touched: hash of their `example_id`s, in sorted order; "" where there are none.
    """

    pairs: NDArray[np.int64]
    swapped: int
    touched: str


def pair_swaps(table: Dataset, *, rate: float, seed: int) -> Corrupted:
    """Leave the table unchanged, and swap a share of the pairs made from it.

    Args:
        table: rows of the training split.
        rate: share of the pairs, in [0, 1].
        seed: decides which.

    Raises:
        LabError: a key is out of range.
    """
    check_rate("rate", rate)
    check_seed(seed)
    return Corrupted(table, (), PairSwaps(rate, seed), noise_added=True)


def swapped(pairs: NDArray[np.int64], example_ids: Sequence[str], swaps: PairSwaps) -> Swapped:
    """Exchange the two sides of exactly round(rate * n) of n pairs.

    Which ones is decided by a hash of the seed and the two identities: it does not depend on the order of the pairs or
    of the table, and the pairs swapped at a smaller rate are among those at a larger one.

    Args:
        pairs: int64, shape (pairs, 2), of row numbers; the rest keep their place.
        example_ids: the identity of each row (a column of the table, or a list).
        swaps: rate and seed.
    """
    names = example_ids[:]
    identities = [(names[chosen], names[rejected]) for chosen, rejected in pairs]
    ranks = [content_hash("pair swaps", swaps.seed, pair) for pair in identities]
    rows = lowest(ranks, round(swaps.rate * len(pairs)))
    after = pairs.copy()
    after[rows] = pairs[rows][:, ::-1]
    touched = content_hash(sorted(identities[row] for row in rows)) if len(rows) else ""
    return Swapped(after, len(rows), touched)
