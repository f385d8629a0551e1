"""Dawid and Skene's model against a simulated truth."""

import numpy as np
import pytest
from audit_tables import several_thumbs, wrong_labels
from sklearn.metrics import roc_auc_score

from kto_lab.auditing.examples import Examples
from kto_lab.auditing.raters import dawid_skene, raters, votes_of
from kto_lab.auditing.rates import of_raters
from kto_lab.feedback.table import build_table

RELIABILITIES = ((0.05, 0.1), (0.1, 0.3), (0.3, 0.1), (0.2, 0.2), (0.45, 0.45))


def test_it_finds_each_raters_error_rates_and_the_truth() -> None:
    table = several_thumbs(2000, raters=RELIABILITIES, share_up=0.6)
    signal, votes, found = raters(Examples.of(table))
    assert votes.names == [f"rater {n}" for n in range(5)]
    assert found.missed == pytest.approx([missed for missed, _ in RELIABILITIES], abs=0.05)
    assert found.false == pytest.approx([false for _, false in RELIABILITIES], abs=0.05)
    assert found.prior == pytest.approx(0.6, abs=0.04)
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
    assert weighted.prior == pytest.approx(doubled.prior, abs=1e-3)


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
