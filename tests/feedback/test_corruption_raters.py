import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import (
    label_noise_disagreeing_raters,
    label_noise_one_rater,
    label_noise_simulated_rater,
)
from tests.feedback.corruption_tables import assert_chain, assert_sound, flips, rated_table, score, table_of

TABLE = rated_table()


def one_rater(share: float = 1.0, seed: int = 0) -> Any:
    return partial(label_noise_one_rater, share=share, seed=seed)


def dissenters(raters: int) -> Any:
    return partial(label_noise_disagreeing_raters, raters=raters)


def simulated(reliability: float, boundary: float = 0.0, seed: int = 0) -> Any:
    return partial(label_noise_simulated_rater, reliability=reliability, boundary=boundary, seed=seed)


@pytest.mark.parametrize(
    "corruption", [one_rater(), one_rater(0.3, seed=4), one_rater(0.0), dissenters(1), dissenters(3), simulated(0.7)]
)
def test_noise_of_raters_is_sound(corruption: Any) -> None:
    assert_sound(TABLE, corruption)


def test_one_rater_is_drawn_from_those_who_gave_a_thumb() -> None:
    """Examples with d of 8 thumbs against them are flipped with probability d/8."""
    seeds = range(40)
    counts = dict.fromkeys(TABLE["example_id"], 0)
    for seed in seeds:
        for name in flips(TABLE, one_rater(seed=seed)(TABLE).table):
            counts[name] += 1
    for dissent in range(4):
        names = [row["example_id"] for n, row in enumerate(TABLE) if n % 4 == dissent]
        expected, draws = dissent / 8, len(names) * len(seeds)
        share = sum(counts[name] for name in names) / draws
        assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / draws)


def test_examples_of_one_rater_nest_across_shares() -> None:
    assert_chain([flips(TABLE, one_rater(share)(TABLE).table) for share in (0.0, 0.1, 0.5, 0.9, 1.0)])


def test_a_share_counts_examples_and_not_flips() -> None:
    against = table_of(ratings=lambda number, label: [-1.0 if label else 1.0])
    (change,) = one_rater(0.5)(against).changes
    assert change.flipped_to_desirable + change.flipped_to_undesirable == 75
    assert one_rater(0.0)(TABLE).changes[0].touched == ""


def test_raters_without_a_thumb_change_nothing() -> None:
    neutral = table_of(2, ratings=lambda number, label: [0.0, 0.0])
    assert one_rater()(neutral).changes[0].touched == dissenters(2)(neutral).changes[0].touched == ""


@pytest.mark.parametrize(
    ("ratings", "k", "stands"),
    [
        ([-1.0, 2.0, 2.0], 1, False),
        ([-1.0, 2.0, 2.0], 2, True),
        ([-2.0, 2.0, 2.0], 2, True),  # a tie
        ([-3.0, 1.0, 1.0, 4.0], 3, False),
        ([-3.0, 1.0, 1.0, 4.0], 4, True),
        ([-3.0, 1.0, 1.0, 4.0], 99, True),  # more than there are
        ([0.0, 3.0], 1, True),
    ],
)
def test_the_most_disagreeing_raters_decide(ratings: list[float], k: int, stands: bool) -> None:
    rows = table_of(
        1,
        ratings=lambda number, label: (
            [r if label else -r for r in ratings] if number in (0, 3) else [1.0 if label else -1.0]
        ),
    )
    changed = flips(rows, dissenters(k)(rows).table)
    assert changed == (set() if stands else {rows["example_id"][0], rows["example_id"][3]})


def test_dissent_nests_as_fewer_raters_count() -> None:
    assert_chain([flips(TABLE, dissenters(k)(TABLE).table) for k in (9, 5, 3, 2, 1)])


def test_the_consensus_is_the_clean_label() -> None:
    noisy = one_rater()(TABLE).table
    assert flips(TABLE, noisy)
    assert dissenters(9)(noisy).table.to_list() == TABLE.to_list(), "all raters together are the consensus"


def test_a_simulated_rater_of_less_reliability_errs_on_more() -> None:
    assert_chain([flips(TABLE, simulated(r)(TABLE).table) for r in (1.0, 0.99, 0.9, 0.6, 0.2, 0.01)])
    assert flips(TABLE, simulated(1.0)(TABLE).table) == set()
    assert flips(TABLE, simulated(0.6)(TABLE).table) != flips(TABLE, simulated(0.6, seed=1)(TABLE).table)


def test_a_simulated_rater_errs_as_often_as_the_model_says() -> None:
    """P(score + e on the other side) = Phi(-|score| / sd of e), averaged over the scores."""
    table = table_of(400, score=score)
    scores = np.array(table["score"])
    deviation = math.sqrt(scores.var() * 0.4 / 0.6)
    wrong = np.array([0.5 * math.erfc(abs(value) / deviation / math.sqrt(2)) for value in scores])
    share = len(flips(table, simulated(0.6)(table).table)) / len(table)
    assert abs(share - wrong.mean()) < 4 * math.sqrt((wrong * (1 - wrong)).sum()) / len(table)


def test_close_scores_go_wrong_more_often_and_the_boundary_may_lie_anywhere() -> None:
    moved = table_of(score=lambda number, label: 10 + score(number, label))
    changed = flips(moved, simulated(0.8, boundary=10.0)(moved).table)
    assert changed == flips(TABLE, simulated(0.8)(TABLE).table)
    distance = {row["example_id"]: abs(row["score"]) for row in TABLE}
    assert np.mean([distance[name] for name in changed]) < np.mean(list(distance.values())) - 0.3


def test_a_score_on_the_boundary_has_no_side() -> None:
    """Such as 0 and 1 of a checker with the boundary 0: the rater would flip half of them at any reliability."""
    table = table_of(score=lambda number, label: float(label))
    with pytest.raises(LabError, match=r"60 of 150 scores lie on corruption\.boundary=0\.0"):
        simulated(0.9)(table)
    assert simulated(1.0, boundary=0.5)(table).changes[0].touched == ""


@pytest.mark.parametrize(
    ("corruption", "message"),
    [
        (one_rater(1.5), "corruption.share is 1.5; it must be a number from 0 to 1"),
        (one_rater(seed=None), "corruption.seed is None"),  # type: ignore[arg-type]
        (dissenters(0), "corruption.raters is 0; it must be a whole number of at least 1"),
        (dissenters(1.5), "corruption.raters is 1.5"),  # type: ignore[arg-type]
        (simulated(0.0), "corruption.reliability is 0.0; it must be a number above 0 and at most 1"),
        (simulated(math.nan), "corruption.reliability is nan"),
        (simulated(0.5, boundary=math.inf), "corruption.boundary is inf"),
        (simulated(0.5, boundary=1.0), r"31 of 150 scores lie on corruption.boundary=1.0, or on the other side"),
    ],
)
def test_what_cannot_be_done_is_said(corruption: Any, message: str) -> None:
    with pytest.raises(LabError, match=message):
        corruption(TABLE)


@pytest.mark.parametrize("corruption", [one_rater(), dissenters(2)])
def test_raters_must_be_known(corruption: Any) -> None:
    some = table_of(2, ratings=lambda number, label: None if number < 4 else [1.0])
    with pytest.raises(LabError, match="needs the ratings of all raters, and 4 of 10 examples have none"):
        corruption(some)
    with pytest.raises(LabError, match="10 of 10 examples have none"):
        corruption(table_of(2))


def test_scores_must_be_known_and_vary() -> None:
    with pytest.raises(LabError, match="10 of 10 examples have none"):
        simulated(0.5)(table_of(2))
    with pytest.raises(LabError, match="all scores are equal"):
        simulated(0.5)(table_of(2, score=lambda number, label: 1.0))


def test_raters_who_leave_one_class() -> None:
    up = table_of(2, ratings=lambda number, label: [1.0])
    with pytest.raises(LabError, match=r"label_noise_one_rater leaves none of the 4 undesirable.*corruption\.share"):
        one_rater()(up)
    with pytest.raises(LabError, match=r"leaves none of the 4 undesirable.*corruption\.raters"):
        dissenters(1)(up)
