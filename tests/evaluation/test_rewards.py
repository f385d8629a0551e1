import pytest

from kto_lab.evaluation.rewards import reward_metrics

NAMES = ["reward_accuracy", "reward_auc", "pair_accuracy", "reward_desirable", "reward_undesirable", "reward_margin"]


def test_values_by_hand() -> None:
    #           a: one pair of three right, one tied    b: only desirable    c: one pair, right
    rewards = [0.5, 0.5, 1.0, -0.2, 0.3, 0.1, -0.4]
    clean = [True, False, False, False, True, True, False]
    prompts = ["a", "a", "a", "a", "b", "c", "c"]
    found = reward_metrics(rewards, clean, prompts, seed=0)
    assert list(found) == NAMES
    # right: 0.5, -0.2, 0.3, 0.1, -0.4; wrong: 0.5 and 1.0 that are undesirable
    assert found["reward_accuracy"].value == pytest.approx(5 / 7)
    # wins of 0.5: over -0.2, -0.4, half of 0.5; of 0.3: two; of 0.1: two
    assert found["reward_auc"].value == pytest.approx(6.5 / 12)
    assert found["pair_accuracy"].value == pytest.approx(2.5 / 4)
    assert found["reward_desirable"].value == pytest.approx(0.3)
    assert found["reward_undesirable"].value == pytest.approx(0.9 / 4)
    assert found["reward_margin"].value == pytest.approx(0.3 - 0.225)
    assert [found[name].n for name in NAMES] == [3, 3, 2, 3, 2, 3]


def test_an_untrained_policy_is_at_chance_without_false_precision() -> None:
    found = reward_metrics([0.0] * 6, [True, False] * 3, list("aabbcc"), seed=0)
    assert [found[name].value for name in NAMES] == [0.5, 0.5, 0.5, 0.0, 0.0, 0.0]
    assert all(found[name].low is None for name in NAMES)


def test_one_class_only_leaves_out_what_it_cannot_tell() -> None:
    found = reward_metrics([0.1, -0.1, 0.4], [True] * 3, list("abc"), seed=0)
    assert found["reward_accuracy"].value == pytest.approx(2 / 3)
    assert found["reward_desirable"].value == pytest.approx(0.4 / 3)
    for name in ("reward_auc", "pair_accuracy", "reward_undesirable", "reward_margin"):
        assert found[name].value is None and found[name].low is None


def test_nothing_held_out() -> None:
    found = reward_metrics([], [], [], seed=0)
    assert all(found[name].value is None and found[name].n == 0 for name in NAMES)


def test_intervals_surround_the_value_and_are_repeatable() -> None:
    clean = [row % 2 == 0 for row in range(120)]
    rewards = [(1 if good else -1) * (0.3 if row % 7 else -0.5) + row / 500 for row, good in enumerate(clean)]
    prompts = [f"p{row // 4}" for row in range(120)]
    found = reward_metrics(rewards, clean, prompts, seed=3)
    for name in NAMES:
        assert found[name].low < found[name].value < found[name].high, name
        assert found[name].n == 30
    assert found == reward_metrics(rewards, clean, prompts, seed=3)


def test_pairs_that_were_given_meet_each_other_alone() -> None:
    # "Apple." won against a stone and lost against a pear; a hat was given as no half of a pair.
    rewards = [0.3, 0.1, 0.2, 0.3, 0.0]
    clean, pairs = [True, False, True, False, False], ["one", "one", "two", "two", None]
    found = reward_metrics(rewards, clean, ["fruit"] * 5, pairs, seed=0)
    assert (found["pair_accuracy"].value, found["pair_accuracy"].n) == (0.5, 1)
    assert reward_metrics(rewards, clean, ["fruit"] * 5, seed=0)["pair_accuracy"].value == pytest.approx(4.5 / 6)
