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
    pairs = make_pairs(table, seed=0)
    assert pairs.dtype == np.int64 and pairs.shape == (3, 2)
    for a, b in pairs:
        assert table[int(a)]["desirable"] and not table[int(b)]["desirable"]
        assert table[int(a)]["prompt_id"] == table[int(b)]["prompt_id"]
    assert len(set(pairs.flatten().tolist())) == 6


@pytest.mark.parametrize(("d", "u"), [(2, 3), (4, 6), (3, 3), (1, 5), (6, 4)])
def test_no_completion_is_used_twice(d: int, u: int) -> None:
    pairs = make_pairs(table_of((d, u)), seed=1)
    assert len(pairs) == min(d, u)
    assert len(set(pairs.flatten().tolist())) == 2 * min(d, u)


def test_pairs_depend_on_seed_and_content_alone() -> None:
    table = table_of((5, 5), (4, 3))
    shuffled = table.shuffle(seed=7)
    first = texts(table, make_pairs(table, seed=0))
    assert sorted(first) == sorted(texts(shuffled, make_pairs(shuffled, seed=0)))
    assert first != texts(table, make_pairs(table, seed=1))
    alone = table.select(range(10))
    assert texts(alone, make_pairs(alone, seed=0)) == first[:5]


def test_equal_texts_make_no_pair_and_cost_no_other() -> None:
    rows = [("same", True), ("good", True), ("same", False), ("bad", False)]
    table = build_table(
        [{"prompt": "p", "completion": text, "desirable": up} for text, up in rows], source="test", held_out=0.0
    )
    for seed in range(8):
        pairs = texts(table, make_pairs(table, seed=seed))
        assert sorted(pairs) == [("p", "good", "same"), ("p", "same", "bad")]


def test_no_pair_at_all() -> None:
    with pytest.raises(LabError, match="of 3 prompts, 3 have completions of one class only"):
        make_pairs(table_of((2, 0), (0, 3), (1, 0)), seed=0)
