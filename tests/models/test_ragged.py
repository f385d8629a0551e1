"""Indices into values that lie one sequence after another."""

import numpy as np

from kto_lab.models.ragged import owners, places

COUNTS = np.array([2, 0, 3, 1])
VALUES = ["a0", "a1", "c0", "c1", "c2", "d0"]


def test_the_values_of_some_sequences_in_their_order() -> None:
    assert [VALUES[place] for place in places(COUNTS, [3, 0, 1, 2])] == ["d0", "a0", "a1", "c0", "c1", "c2"]
    assert places(COUNTS, []).tolist() == places(COUNTS, [1]).tolist() == []
    assert places(COUNTS, np.arange(4)).tolist() == list(range(6))


def test_lengths_of_a_narrow_type_do_not_overflow() -> None:
    counts = np.full(3, 200, dtype=np.uint8)
    assert places(counts, [2]).tolist() == list(range(400, 600))


def test_each_value_has_its_owner() -> None:
    assert owners(COUNTS).tolist() == [0, 0, 2, 2, 2, 3]
