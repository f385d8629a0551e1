from functools import partial
from typing import Any

import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import imbalance, imbalance_ratio, one_per_prompt
from tests.feedback.corruption_tables import assert_chain, assert_sound, kept, table_of

# 90 desirable and 60 undesirable examples.
TABLE = table_of()


def thinned(up: float, down: float, by: Any = "example", seed: int = 0) -> Any:
    return partial(imbalance, keep_desirable=up, keep_undesirable=down, by=by, seed=seed)


def ratio(share: float, hold: Any = "total", size: int | None = None, by: Any = "example", seed: int = 0) -> Any:
    return partial(imbalance_ratio, desirable_share=share, hold=hold, size=size, by=by, seed=seed)


def classes(table: Dataset) -> tuple[int, int]:
    up = sum(table["desirable"])
    return up, len(table) - up


@pytest.mark.parametrize("by", ["example", "prompt"])
@pytest.mark.parametrize(("up", "down"), [(1.0, 1.0), (0.5, 1.0), (0.111, 0.3), (0.01, 0.01)])
def test_fractions_are_exact_in_each_class(up: float, down: float, by: str) -> None:
    corrupted = assert_sound(TABLE, thinned(up, down, by))
    assert classes(corrupted.table) == (round(up * 90), round(down * 60))


@pytest.mark.parametrize("by", ["example", "prompt"])
def test_smaller_fractions_lie_within_larger_ones(by: str) -> None:
    assert_chain([kept(thinned(share, share, by)(TABLE)) for share in (0.1, 0.3, 0.31, 0.8)])


def test_the_seed_decides_which_and_the_hash_says_so() -> None:
    one, other = thinned(0.5, 1.0)(TABLE), thinned(0.5, 1.0, seed=1)(TABLE)
    assert kept(one) != kept(other)
    assert one.changes[0].touched != other.changes[0].touched
    assert one.changes[0].parameters == {"keep_desirable": 0.5, "keep_undesirable": 1.0, "by": "example", "seed": 0}


def test_nothing_is_removed_and_nothing_is_touched() -> None:
    assert thinned(1.0, 1.0)(TABLE).table is TABLE


def test_whole_prompts_leave_one_after_another() -> None:
    for share in (0.5, 0.4):
        table = thinned(share, share, "prompt")(TABLE).table
        sizes = {prompt: list(table["prompt_id"]).count(prompt) for prompt in table["prompt_id"]}
        assert sum(size < 5 for size in sizes.values()) <= 1
        assert len(sizes) == 30 * share
    assert len(set(thinned(0.5, 0.5)(TABLE).table["prompt_id"])) > 25


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("by", ["example", "prompt"])
def test_a_ratio_at_fixed_total(share: float, by: str) -> None:
    corrupted = assert_sound(TABLE, ratio(share, by=by))
    assert classes(corrupted.table) == (round(60 * share), 60 - round(60 * share))


@pytest.mark.parametrize(("share", "counts"), [(1 / 11, (6, 60)), (0.25, (6, 18)), (0.5, (6, 6)), (0.9, (54, 6))])
def test_a_ratio_at_fixed_size_of_the_rarer_class(share: float, counts: tuple[int, int]) -> None:
    assert classes(assert_sound(TABLE, ratio(share, "rarer")).table) == counts


def test_a_stated_size_is_met() -> None:
    assert classes(ratio(0.9, size=100)(TABLE).table) == (90, 10)
    assert classes(ratio(0.6, "rarer", size=20)(TABLE).table) == (30, 20)


@pytest.mark.parametrize("hold", ["total", "rarer"])
def test_classes_nest_across_shares(hold: str) -> None:
    tables = [ratio(share, hold)(TABLE).table for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    for label, order in ((True, tables), (False, tables[::-1])):
        assert_chain(
            [
                {name for name, up in zip(table["example_id"], table["desirable"], strict=True) if up == label}
                for table in order
            ]
        )


def test_a_ratio_keeps_what_a_fraction_keeps() -> None:
    assert kept(ratio(0.5)(TABLE)) == kept(thinned(30 / 90, 0.5)(TABLE))


@pytest.mark.parametrize(
    ("corruption", "message"),
    [
        (thinned(0.0, 1.0), "corruption.keep_desirable is 0.0; it must be a number above 0 and at most 1"),
        (thinned(1.0, 1.1), "corruption.keep_undesirable is 1.1"),
        (thinned(float("nan"), 1.0), "corruption.keep_desirable is nan"),
        (thinned("half", 1.0), "corruption.keep_desirable is 'half'"),  # type: ignore[arg-type]
        (thinned(1.0, 0.005), "corruption.keep_undesirable is 0.005: of 60 examples that leaves none"),
        (thinned(1.0, 1.0, "class"), "corruption.by is 'class'; it must be 'example' or 'prompt'"),
        (thinned(1.0, 1.0, seed=0.5), "corruption.seed is 0.5"),  # type: ignore[arg-type]
        (ratio(1.0), "corruption.desirable_share is 1.0"),
        (ratio(0.5, "both"), "corruption.hold is 'both'; it must be 'total' or 'rarer'"),
        (ratio(0.5, size=0), "corruption.size is 0"),
        (ratio(0.5, by="class"), "corruption.by is 'class'"),
        (ratio(0.5, size=122), "61 desirable and 61 undesirable examples. There are 90 and 60.*size from 2 to 120"),
        (ratio(0.05, "rarer"), "6 desirable and 114 undesirable.*size from 1 to 3"),
        (ratio(0.001, "rarer"), "No corruption.size makes that possible"),
        (ratio(0.999), "60 desirable and 0 undesirable.*No corruption.size"),
    ],
)
def test_what_cannot_be_done_is_said(corruption: Any, message: str) -> None:
    with pytest.raises(LabError, match=message):
        corruption(TABLE)


def test_a_table_of_one_class() -> None:
    """It may be thinned (SFT trains on it), and has no ratio."""
    alone = TABLE.select([row for row, up in enumerate(TABLE["desirable"]) if up])
    assert len(thinned(0.5, 0.5)(alone).table) == 45
    with pytest.raises(LabError, match="There are 90 and 0"):
        ratio(0.5)(alone)


def test_one_completion_of_each_prompt_is_left() -> None:
    corrupted = assert_sound(TABLE, partial(one_per_prompt, seed=0))
    prompts = list(corrupted.table["prompt_id"])
    assert sorted(prompts) == sorted(set(TABLE["prompt_id"]))
    assert corrupted.changes[0].removed == len(TABLE) - len(prompts)
    others = [kept(partial(one_per_prompt, seed=seed)(TABLE)) for seed in (0, 1)]
    assert others[0] == kept(corrupted) != others[1]
    # By chance as the classes are: 30 prompts, three in five desirable.
    assert 9 <= sum(corrupted.table["desirable"]) <= 27
