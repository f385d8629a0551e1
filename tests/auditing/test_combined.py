"""The noise-aware fit: which labels are wrong, and at which rates."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kto_lab.auditing.bounds import Bounds
from kto_lab.auditing.combined import (
    STARTS,
    Combined,
    Fit,
    _goal,
    combine,
    features_of,
    find_tops,
    first_guesses,
    fit_at,
    priors_of,
)
from kto_lab.auditing.examples import Bools, Examples
from kto_lab.auditing.rates import cleanlab_issues, of_combined, of_confident_learning
from kto_lab.auditing.signals import Signal
from kto_lab.statistics import Estimate
from tests.auditing.audit_tables import looks, wrong_labels


def simulated(n: int, down: float, up: float, *, strength: float, seed: int = 0) -> tuple[Signal, Bools, Bools]:
    """A signal that tells the truth as far as its strength goes, the true labels, and the given ones."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.5
    score = strength * np.where(truth, 1, -1) + rng.normal(size=n)
    given = truth ^ (rng.random(n) < np.where(truth, down, up))
    return Signal("s", 1 / (1 + np.exp(-score)), np.ones(n, dtype=bool)), truth, given


def fitted(signal: Signal, given: Bools, known: tuple[float, float] | None = None) -> Fit:
    features = features_of([signal])
    starts = first_guesses(1, [(rate, rate) for rate in STARTS])
    return fit_at(find_tops(features, given, np.ones(len(given)), starts, priors_of(len(given), known))[0], features)


@pytest.mark.parametrize(("down", "up"), [(0.0, 0.0), (0.1, 0.1), (0.4, 0.4), (0.05, 0.3), (0.3, 0.0)])
def test_the_rates_come_out_where_the_signal_is_sure_somewhere(down: float, up: float) -> None:
    signal, truth, given = simulated(6000, down, up, strength=2.0)
    fit = fitted(signal, given)
    assert (fit.rho_desirable, fit.rho_undesirable) == pytest.approx((down, up), abs=0.03)
    if down + up:
        suspicion = fit.suspicion(given)
        assert roc_auc_score(given != truth, suspicion) > 0.9
        # A probability: as many labels are wrong as it expects.
        assert suspicion.sum() == pytest.approx((given != truth).sum(), rel=0.1)


def test_uneven_flips_are_ranked_by_what_is_true_and_not_by_the_label_that_is_expected() -> None:
    signal, truth, given = simulated(4000, 0.02, 0.4, strength=1.2)
    fit = fitted(signal, given)
    label_up = fit.rho_undesirable + (1 - fit.rho_desirable - fit.rho_undesirable) * fit.truly_up
    unexpected = np.where(given, 1 - label_up, label_up)
    wrong = given != truth
    assert roc_auc_score(wrong, fit.suspicion(given)) > roc_auc_score(wrong, unexpected) + 0.03


def test_the_gradient_is_that_of_the_value() -> None:
    from scipy.optimize import check_grad

    signal, _, given = simulated(200, 0.1, 0.2, strength=1.0)
    weights = np.random.default_rng(0).integers(0, 3, 200).astype(float)
    for prior in (priors_of(200, None)[1], *priors_of(200, (0.1, 0.2))):
        goal = _goal(features_of([signal]), given, weights, prior)
        for point in (np.array([0.3, 0.1, -1.0, 0.4]), np.array([2.0, -0.5, 0.2, -2.0])):
            assert check_grad(lambda p, goal=goal: goal(p)[0], lambda p, goal=goal: goal(p)[1], point) < 1e-3


def test_a_silent_signal_says_nothing_where_it_is_silent() -> None:
    known = np.array([True, True, False, False])
    features = features_of([Signal("x", np.array([0.9, 0.1, 0.5, 0.5]), known)])
    assert features.shape == (4, 2) and features[2:, 0].tolist() == [0, 0]
    assert (features[:, 1] > 0).tolist() == [False, False, True, True]


Looks = tuple[Examples, Signal, Bools]


@pytest.fixture(scope="module")
def on_looks() -> Looks:
    """Examples of which a tenth of the good and a quarter of the bad ones have the wrong thumb."""
    table = looks(150, flips_down=0.1, flips_up=0.25)
    good = np.array(table["desirable_clean"][:])
    score = np.where(good, 2.0, -2.0) + np.random.default_rng(0).normal(size=len(good))
    return Examples.of(table), Signal("x", 1 / (1 + np.exp(-score)), np.ones_like(good)), wrong_labels(table)


def test_the_fit_finds_the_rates_and_the_interval_says_no_more_than_the_thumbs(on_looks: Looks) -> None:
    examples, signal, wrong = on_looks
    combined = combine([signal], examples, seed=0)
    rates = of_combined(combined, Bounds(Estimate(0.9, 0.8, 0.95, 150), 0.16, 0.32), examples)
    for estimate, truth, bound in ((rates.desirable, 0.1, 0.16), (rates.undesirable, 0.25, 0.32)):
        assert estimate.value == pytest.approx(truth, abs=0.06)
        assert (estimate.low, estimate.high, estimate.n) == (0.0, bound, 150)
    assert roc_auc_score(wrong, combined.suspicion) > 0.95


def test_a_fit_that_is_nowhere_sure_gives_no_rate() -> None:
    """A fifth of 37,000 thumbs is wrong, and the signal is just what a calibrated judge says of them.

    No wrong label at all fits such thumbs best, and in every resample: a spread of 0 that is no evidence.
    """
    rng = np.random.default_rng(1)
    truly_up = 1 / (1 + np.exp(-rng.normal(0, 0.6, 37000)))
    given = (rng.random(37000) < truly_up) ^ (rng.random(37000) < 0.2)
    signal = Signal("s", 0.5 + 0.6 * (truly_up - 0.5), np.ones(37000, dtype=bool))
    fit = fitted(signal, given)
    assert fit.rho_desirable < 0.02 and fit.sure == (False, False)
    certain = Combined(np.zeros(37000), fit, np.zeros((100, 2)))
    rates = of_combined(certain, Bounds(Estimate(0.6, 0.59, 0.61, 9), 0.4, 0.4), Examples.of(looks(2)))
    assert rates.values is None and (rates.desirable.low, rates.desirable.high) == (0.0, 0.4)


def test_cleanlab_counts_what_probabilities_contradict(on_looks: Looks) -> None:
    examples, signal, wrong = on_looks
    rates = of_confident_learning(signal, examples)
    assert rates.desirable.value == pytest.approx(0.1, abs=0.05)
    assert rates.undesirable.value == pytest.approx(0.25, abs=0.05)
    # Its error is the classifier's, and no resampling shows it.
    assert rates.desirable.low is None and rates.undesirable.high is None
    flagged = cleanlab_issues(signal, examples.labels)
    assert flagged.dtype == bool and wrong[flagged].mean() > 0.8


def test_tops_are_given_once() -> None:
    signal, _, given = simulated(3000, 0.1, 0.1, strength=2.0)
    features, ones = features_of([signal]), np.ones(3000)
    starts, priors = first_guesses(1, [(rate, rate) for rate in STARTS]), priors_of(3000, None)
    tops = find_tops(features, given, ones, starts, priors)
    assert len(tops) < len(starts)
    # From the highest no step leads on.
    assert find_tops(features, given, ones, tops, priors)[0] == pytest.approx(tops[0], abs=0.05)


def test_known_rates_hold_where_the_labels_cannot_tell_and_give_way_where_they_can() -> None:
    weak, _, given = simulated(1000, 0.05, 0.2, strength=0.5)
    held = fitted(weak, given, known=(0.05, 0.2))
    assert (held.rho_desirable, held.rho_undesirable) == pytest.approx((0.05, 0.2), abs=0.06)
    strong, _, given = simulated(6000, 0.05, 0.2, strength=3.0)
    moved = fitted(strong, given, known=(0.1, 0.1))
    assert (moved.rho_desirable, moved.rho_undesirable) == pytest.approx((0.05, 0.2), abs=0.03)


def test_a_supposed_rate_is_that_of_both_classes_and_ranks_by_the_signal() -> None:
    signal, truth, given = simulated(2000, 0.4, 0.4, strength=0.8)
    features, priors = features_of([signal]), priors_of(2000, supposed=0.2)
    top, *_ = find_tops(features, given, np.ones(2000), first_guesses(1, [(0.2, 0.2)]), priors)
    fit = fit_at(top, features)
    assert (fit.rho_desirable, fit.rho_undesirable) == pytest.approx((0.2, 0.2), abs=0.02)
    wrong, suspicion = given != truth, fit.suspicion(given)
    assert roc_auc_score(wrong, suspicion) > roc_auc_score(wrong, signal.suspicion(given)) - 0.01
    assert 0.1 < suspicion.mean() < 0.3


def test_a_signal_that_is_nowhere_sure_leaves_the_rates_one() -> None:
    signal, truth, given = simulated(2000, 0.4, 0.4, strength=0.8)
    fit = fitted(signal, given)
    assert fit.rho_desirable == pytest.approx(fit.rho_undesirable, abs=0.01)
    # So no class comes before the other for a rate that is not known.
    wrong = given != truth
    assert roc_auc_score(wrong, fit.suspicion(given)) > roc_auc_score(wrong, signal.suspicion(given)) - 0.01
