"""Dawid and Skene's model against a simulated truth."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kto_lab.auditing.examples import Examples
from kto_lab.auditing.raters import LEAST_COMPARED, Votes, dawid_skene, raters, records, votes_of
from kto_lab.auditing.rates import of_raters
from kto_lab.feedback.table import build_table
from tests.auditing.audit_tables import several_thumbs, wrong_labels

RELIABILITIES = ((0.05, 0.1), (0.1, 0.3), (0.3, 0.1), (0.2, 0.2), (0.45, 0.45))


def test_it_finds_each_raters_error_rates_and_the_truth() -> None:
    table = several_thumbs(2000, raters=RELIABILITIES, share_up=0.6)
    signal, votes, found = raters(Examples.of(table))
    assert votes.names == [f"rater {n}" for n in range(5)]
    assert found.missed == pytest.approx([missed for missed, _ in RELIABILITIES], abs=0.05)
    assert found.false == pytest.approx([false for _, false in RELIABILITIES], abs=0.05)
    assert found.prior == pytest.approx(np.full(2000, 0.6), abs=0.04)
    clean = np.array(table["desirable_clean"][:])
    assert np.mean((found.logits > 0)[votes.item_of] == clean) > 0.93
    assert roc_auc_score(wrong_labels(table), signal.suspicion(Examples.of(table).labels)) > 0.9


def test_it_weighs_raters_better_than_a_majority() -> None:
    table = several_thumbs(800, raters=((0.02, 0.02), (0.45, 0.45), (0.45, 0.45)))
    examples = Examples.of(table)
    votes = votes_of(examples)
    clean = np.array(table["desirable_clean"][:])[::3]
    majority = np.bincount(votes.item, votes.up) > 1.5
    weighed = dawid_skene(votes).logits > 0
    assert np.mean(weighed == clean) > np.mean(majority == clean) + 0.1


def test_a_weight_is_as_many_copies() -> None:
    once = votes_of(Examples.of(several_thumbs(50, raters=RELIABILITIES[:3])))
    weights = np.where(np.arange(50) < 25, 2.0, 0.0)
    half = votes_of(Examples.of(several_thumbs(50, raters=RELIABILITIES[:3]).select(range(75))))
    doubled = dawid_skene(half, np.full(25, 2.0))
    weighted = dawid_skene(once, weights)
    assert weighted.missed == pytest.approx(doubled.missed, abs=1e-3)
    assert weighted.prior[0] == pytest.approx(doubled.prior[0], abs=2e-3)


def test_the_signal_leaves_out_the_examples_own_thumb() -> None:
    rows = [
        {"prompt": "a", "completion": "x", "desirable": up, "rater": name}
        for name, up in (("r", False), ("s", True), ("t", True))
    ]
    rows.append({"prompt": "b", "completion": "y", "desirable": True, "rater": "r"})
    signal, _, _ = raters(Examples.of(build_table(rows, source="few", held_out=0.0)))
    assert signal.known.tolist() == [True, True, True, False]
    # Two thumbs up speak to the one that is down; one up and one down to each of the others.
    assert signal.up[0] > signal.up[1] and signal.up[3] == 0.5


def test_ratings_behind_a_label_are_thumbs_and_zero_is_none() -> None:
    rows = [
        {"prompt": "a", "completion": "x", "desirable": False, "ratings": [3.0, 2.0, 0.0, 1.0]},
        {"prompt": "b", "completion": "y", "desirable": True, "ratings": [-1.0, -2.0]},
        {"prompt": "c", "completion": "z", "desirable": True, "ratings": [0.0]},
    ]
    signal, votes, _ = raters(Examples.of(build_table(rows, source="rated", held_out=0.0)))
    assert votes.thumbs.tolist() == [3, 2, 0] and votes.own.tolist() == [-1, -1, -1]
    assert signal.known.tolist() == [True, True, False]
    assert signal.up[0] > 0.5 > signal.up[1]


@pytest.mark.parametrize("named", [True, False])
def test_the_rates_of_the_labels_are_the_true_ones_within_their_interval(named: bool) -> None:
    table = several_thumbs(500, raters=((0.1, 0.2),) * 5, named=named)
    examples = Examples.of(table)
    _, votes, found = raters(examples)
    rates = of_raters(votes, found, examples, seed=0)
    assert rates is not None
    for estimate, truth in ((rates.desirable, 0.1), (rates.undesirable, 0.2)):
        assert estimate.value == pytest.approx(truth, abs=0.03)
        assert estimate.low is not None and estimate.high is not None
        assert estimate.low < estimate.value < estimate.high < estimate.low + 0.1


def test_few_answers_with_several_thumbs_give_no_rates() -> None:
    examples = Examples.of(several_thumbs(30, raters=((0.1, 0.1),) * 3))
    _, votes, found = raters(examples)
    assert of_raters(votes, found, examples, seed=0) is None


def thumbs(*rows: tuple[str, str | None, bool]) -> Examples:
    """Of the answer's name, the rater and the thumb."""
    given = [{"prompt": p, "completion": p, "desirable": up, "rater": rater} for p, rater, up in rows]
    return Examples.of(build_table(given, source="few", held_out=0.0))


def test_no_rate_is_told_of_a_rater_whose_thumbs_meet_no_other() -> None:
    rng = np.random.default_rng(0)
    rows: list[tuple[str, str | None, bool]] = []
    for number in range(60):
        good = number % 2 == 0
        rows += [(f"shared {number}", name, good != (rng.random() < 0.1)) for name in ("ada", "bob", "cyd")]
        rows += [(f"alone {number}", "dot", good), (f"pair {number}", "eve", good), (f"pair {number}", "fay", good)]
        # The same person three times is no other.
        rows += [(f"again {number}", "gil", good)] * 3
    examples = thumbs(*rows)
    _, votes, found = raters(examples)
    by_name = {record.name: record for record in records(votes, found)}
    assert [(by_name[name].thumbs, by_name[name].shared, by_name[name].compared) for name in ("ada", "dot", "eve")] == [
        (60, 60, 60),
        (60, 0, 0),
        (60, 60, 0),
    ]
    assert (by_name["gil"].thumbs, by_name["gil"].shared) == (180, 0)
    for name in ("dot", "eve", "fay", "gil"):
        assert by_name[name].missed.value is None and by_name[name].false.value is None
    ada = by_name["ada"].missed
    assert ada.low is not None and ada.high is not None and ada.low < 0.1 < ada.high
    assert ada.n >= LEAST_COMPARED and ada.high - ada.low > 0.1


def test_a_raters_interval_holds_their_rates() -> None:
    held = []
    for seed in range(20):
        _, votes, found = raters(Examples.of(several_thumbs(100, raters=RELIABILITIES[:4], seed=seed)))
        for record in records(votes, found):
            missed, false = RELIABILITIES[int(record.name.split()[1])]
            for estimate, truth in ((record.missed, missed), (record.false, false)):
                assert estimate.low is not None and estimate.high is not None
                held.append(estimate.low <= truth <= estimate.high)
    assert np.mean(held) > 0.9


def test_raters_who_never_differ_leave_room_for_error() -> None:
    examples = Examples.of(several_thumbs(60, raters=((0.0, 0.0),) * 3))
    _, votes, found = raters(examples)
    rates = of_raters(votes, found, examples, seed=0)
    assert rates is not None
    for estimate in (rates.desirable, rates.undesirable):
        assert estimate.low is not None and estimate.high is not None
        assert estimate.low < 0.01 and estimate.high > 0.03


def test_answers_with_more_thumbs_may_be_better_or_worse() -> None:
    """With one share of good answers for all, the two rates come out as 0.16 and 0.24 here."""
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        good = rng.random(1500) < 0.8 - 0.2 * (np.arange(1500) % 4)
        item = np.repeat(np.arange(1500), 1 + np.arange(1500) % 4)
        up = good[item] ^ (rng.random(len(item)) < 0.2)
        nobody, own = np.zeros(len(item), dtype=np.int64), np.arange(len(item))
        fitted = dawid_skene(Votes(item, nobody, up.astype(float), own, item, [""], np.bincount(item)))
        found.append((fitted.missed[0], fitted.false[0]))
    assert np.mean(found, axis=0) == pytest.approx((0.2, 0.2), abs=0.015)
