from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import PairSwaps, Swapped, pair_swaps, swapped
from kto_lab.feedback.pairs import make_pairs
from tests.feedback.corruption_tables import assert_chain, table_of

# Two pairs a prompt.
TABLE = table_of()


def swap(rate: float, seed: int = 0, table: Dataset = TABLE, pairs: np.ndarray | None = None) -> Swapped:
    chosen = make_pairs(table, seed=0) if pairs is None else pairs
    return swapped(chosen, table["example_id"], PairSwaps(rate, seed))


def touched(found: Swapped, table: Dataset = TABLE) -> set[str]:
    """The swapped pairs: those whose first is undesirable."""
    names, labels = list(table["example_id"]), list(table["desirable"])
    return {f"{names[a]} {names[b]}" for a, b in found.pairs if not labels[a] and labels[b]}


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.33, 1.0])
def test_exactly_the_stated_share_is_swapped_in_place(rate: float) -> None:
    pairs = make_pairs(TABLE, seed=0)
    before = pairs.copy()
    found = swap(rate, pairs=pairs)
    assert len(pairs) == 60 and found.swapped == len(touched(found)) == round(rate * 60)
    assert found.pairs.dtype == np.int64 and (pairs == before).all()
    assert (np.sort(found.pairs, axis=1) == np.sort(pairs, axis=1)).all(), "each pair keeps its place"
    assert (found.touched == "") == (rate == 0)


def test_swaps_nest_across_rates_and_follow_the_seed() -> None:
    assert_chain([touched(swap(rate)) for rate in (0.0, 0.1, 0.11, 0.5, 1.0)])
    assert touched(swap(0.3)) != touched(swap(0.3, seed=1))
    assert swap(0.3).touched == swap(0.301).touched != swap(0.3, seed=1).touched


def test_swaps_do_not_depend_on_the_order_of_table_or_pairs() -> None:
    shuffled = TABLE.shuffle(seed=5)
    other = swap(0.3, table=shuffled)
    assert touched(other, shuffled) == touched(swap(0.3)) and other.touched == swap(0.3).touched
    assert swap(0.3, pairs=make_pairs(TABLE, seed=0)[::-1]).touched == swap(0.3).touched


def test_no_pairs_at_all() -> None:
    none = swap(0.5, pairs=np.zeros((0, 2), dtype=np.int64))
    assert none.pairs.shape == (0, 2) and (none.swapped, none.touched) == (0, "")


def test_the_table_stays_and_the_pairs_are_announced() -> None:
    corrupted = pair_swaps(TABLE, rate=0.25, seed=3)
    assert corrupted.table is TABLE and corrupted.changes == ()
    assert corrupted.swap_pairs == PairSwaps(rate=0.25, seed=3)


@pytest.mark.parametrize(
    ("keys", "message"), [({"rate": 1.5}, "corruption.rate is 1.5"), ({"seed": 0.1}, "seed is 0.1")]
)
def test_what_cannot_be_done_is_said(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        pair_swaps(TABLE, **{"rate": 0.1, "seed": 0, **keys})
