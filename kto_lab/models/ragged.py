"""Values of several sequences in one flat array, sequence by sequence, with a count of values for each."""

from collections.abc import Sequence

import numpy as np


def places(counts: np.ndarray, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where the values of some sequences stand in the flat array of all.

    Args:
        counts: (N,) values of each sequence.
        chosen: indices of sequences, in any order.

    Returns:
        (values of the chosen,) indices, sequence by sequence in the order of `chosen`.
    """
    counts = counts.astype(np.int64)
    chosen = np.asarray(chosen, dtype=np.int64)
    starts, lengths = (np.cumsum(counts) - counts)[chosen], counts[chosen]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + within


def owners(counts: np.ndarray) -> np.ndarray:
    """(values,) index of the sequence that each value belongs to."""
    return np.repeat(np.arange(len(counts)), counts)
