from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.pairs import make_pairs
from kto_lab.feedback.table import build_table


def table_of(*prompts: tuple[int, int]) -> Dataset:
    """One prompt for each (desirable, undesirable) count."""
    return build_table(
        [
            {"prompt": f"prompt {p}", "completion": f"answer {side} {i}", "desirable": side == 0}
            for p, counts in enumerate(prompts)
            for side, count in enumerate(counts)
            for i in range(count)
        ],
        source="test",
        held_out=0.0,
    )


def texts(table: Dataset, pairs: np.ndarray) -> list[tuple[str, str, str]]:
    rows: Sequence[dict] = list(table)
    return [(rows[a]["prompt"], rows[a]["completion"], rows[b]["completion"]) for a, b in pairs]


def test_every_pair_joins_the_two_classes_of_one_prompt() -> None:
    table = table_of((3, 2), (1, 4), (2, 0), (0, 1))
    pairs = make_pairs(table, seed=0, max_pairs_per_prompt=None)
    assert pairs.dtype == np.int64 and pairs.shape == (3, 2)
    for a, b in pairs:
        assert table[int(a)]["desirable"] and not table[int(b)]["desirable"]
        assert table[int(a)]["prompt_id"] == table[int(b)]["prompt_id"]
    assert len(set(pairs.flatten().tolist())) == 6


@pytest.mark.parametrize(("d", "u"), [(2, 3), (4, 6), (3, 3), (1, 5), (6, 4)])
def test_use_is_even_at_every_maximum(d: int, u: int) -> None:
    table = table_of((d, u))
    for most in range(1, d * u + 3):
        pairs = make_pairs(table, seed=1, max_pairs_per_prompt=most)
        assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) == min(most, d * u)
        for column, size in ((0, d), (1, u)):
            used = Counter(pairs[:, column].tolist())
            assert max(used.values()) - (min(used.values()) if len(used) == size else 0) <= 1


def test_a_smaller_maximum_gives_the_first_pairs() -> None:
    table = table_of((3, 4))
    large = make_pairs(table, seed=2, max_pairs_per_prompt=9)
    assert make_pairs(table, seed=2, max_pairs_per_prompt=5).tolist() == large[:5].tolist()


def test_pairs_depend_on_seed_and_content_alone() -> None:
    table = table_of((5, 5), (4, 3))
    shuffled = table.shuffle(seed=7)
    first = texts(table, make_pairs(table, seed=0, max_pairs_per_prompt=None))
    assert sorted(first) == sorted(texts(shuffled, make_pairs(shuffled, seed=0, max_pairs_per_prompt=None)))
    assert first != texts(table, make_pairs(table, seed=1, max_pairs_per_prompt=None))
    alone = table.select(range(10))
    assert texts(alone, make_pairs(alone, seed=0, max_pairs_per_prompt=None)) == first[:5]


def test_equal_texts_make_no_pair_and_cost_no_other() -> None:
    rows = [("same", True), ("good", True), ("same", False), ("bad", False)]
    table = build_table(
        [{"prompt": "p", "completion": text, "desirable": up} for text, up in rows], source="test", held_out=0.0
    )
    for seed in range(8):
        pairs = texts(table, make_pairs(table, seed=seed, max_pairs_per_prompt=None))
        assert sorted(pairs) == [("p", "good", "same"), ("p", "same", "bad")]
        assert len(make_pairs(table, seed=seed, max_pairs_per_prompt=10)) == 3


def test_no_pair_at_all() -> None:
    with pytest.raises(LabError, match="of 3 prompts, 3 have completions of one class only"):
        make_pairs(table_of((2, 0), (0, 3), (1, 0)), seed=0, max_pairs_per_prompt=None)
    with pytest.raises(LabError, match="max_pairs_per_prompt is 0"):
        make_pairs(table_of((1, 1)), seed=0, max_pairs_per_prompt=0)
