from collections.abc import Sequence

import numpy as np
import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.corruption import label_noise
from kto_lab.feedback.pairs import PairNoise, given_pairs, make_pairs, pair_noise
from kto_lab.feedback.table import build_table, of_split


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


def test_pairs_are_those_that_earlier_versions_made() -> None:
    rows = [{"prompt": f"p{n % 3}", "completion": f"c{n}", "desirable": n % 2 == 0} for n in range(14)]
    pairs = make_pairs(build_table(rows, source="s", held_out=0.0), seed=1)
    assert pairs.tolist() == [[6, 3], [12, 9], [10, 7], [4, 13], [2, 11], [8, 5]]


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


RANKED = [("Apple.", "Rock."), ("Pear.", "Apple."), ("Plum.", "Stone.")]


def ranked(*flipped: str) -> Dataset:
    """Pairs of one prompt, each named by its number; the halves named in `flipped` ("0 up") have the other thumb."""
    return build_table(
        [
            {
                "prompt": "Name a fruit.",
                "completion": text,
                "pair_id": str(number),
                "desirable": (side == "up") != (f"{number} {side}" in flipped),
                "desirable_clean": side == "up",
            }
            for number, pair in enumerate(RANKED)
            for side, text in zip(("up", "down"), pair, strict=True)
        ],
        source="test",
        held_out=0.0,
    )


def answers(table: Dataset, pairs: np.ndarray) -> list[tuple[str, str]]:
    return sorted((chosen, rejected) for _, chosen, rejected in texts(table, pairs))


@pytest.mark.parametrize("seed", range(5))
def test_given_pairs_stay_as_they_were_given(seed: int) -> None:
    table = ranked()
    assert answers(table, make_pairs(table, seed=seed)) == sorted(RANKED)
    shuffled = table.shuffle(seed=seed)
    assert texts(shuffled, make_pairs(shuffled, seed=0)) == texts(table, make_pairs(table, seed=0))


def test_only_examples_of_no_pair_are_joined() -> None:
    loose = [("Fig.", True), ("Coal.", False)]
    rows = [{"prompt": "Name a fruit.", "completion": text, "desirable": up} for text, up in loose]
    given = [{name: row[name] for name in ("prompt", "completion", "desirable", "pair_id")} for row in ranked()]
    table = build_table([*rows, *given], source="test", held_out=0.0)
    assert answers(table, make_pairs(table, seed=0)) == sorted([*RANKED, ("Fig.", "Coal.")])


def test_two_flipped_halves_are_a_swapped_pair_and_one_is_none_any_more() -> None:
    table = ranked("0 up", "0 down", "1 down")
    pairs = make_pairs(table, seed=0)
    assert answers(table, pairs) == [("Plum.", "Stone."), ("Rock.", "Apple.")]
    found = given_pairs(table)
    assert (len(found.pairs), found.agreeing, found.alone) == (2, 1, 0)
    assert pair_noise(pairs, table["desirable_clean"][:]) == PairNoise(swapped=0.5, same=0.0)


def test_a_half_without_its_other_half_is_joined_with_nothing() -> None:
    table = ranked().select([0, 2, 3, 5])
    assert answers(table, make_pairs(table, seed=0)) == [("Pear.", "Apple.")]
    assert given_pairs(table).alone == 2
    with pytest.raises(LabError, match="1 have halves with the same thumb and 1 lack a half"):
        make_pairs(ranked("0 up").select([0, 1, 2]), seed=0)


def test_a_pair_of_three_is_refused() -> None:
    table = ranked()
    three = table.remove_columns("pair_id").add_column("pair_id", ["x"] * len(table))
    with pytest.raises(LabError, match="6 examples have the pair_id x"):
        make_pairs(three, seed=0)


@pytest.mark.parametrize(
    ("rate", "swapped"), [(0.0, 0.0), (0.1, 0.029), (0.2, 0.095), (0.3, 0.198), (0.4, 0.326), (0.45, 0.401)]
)
def test_wrong_thumbs_swap_fewer_pairs_than_their_rate(rate: float, swapped: float) -> None:
    train = of_split(from_collected("arithmetic", None), "train")
    noisy = label_noise(train, rate=rate, seed=0).table
    found = pair_noise(make_pairs(noisy, seed=0), noisy["desirable_clean"][:])
    assert found.swapped == pytest.approx(swapped, abs=0.0006) and found.same < 0.03
