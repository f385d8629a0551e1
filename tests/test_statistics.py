import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from kto_lab.errors import LabError
from kto_lab.statistics import (
    Estimate,
    MeanError,
    auc_interval,
    bounded_interval,
    cluster_interval,
    cluster_sums,
    crossed_error,
    mean_interval,
    paired_difference,
    proportion_interval,
    share_interval,
    smallest_detectable_difference,
)

NOTHING = Estimate(None, None, None, 0)


def test_mean_interval_is_students() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=4.0, scale=stats.sem(values))
    assert found == Estimate(4.0, pytest.approx(low), pytest.approx(high), 4)
    assert found.as_dict() == {"value": 4.0, "low": found.low, "high": found.high, "n": 4}


def test_wilson_closed_form() -> None:
    z, k, n = stats.norm.ppf(0.975), 7, 20
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    assert proportion_interval(k, n) == Estimate(0.35, pytest.approx(centre - half), pytest.approx(centre + half), n)
    none = proportion_interval(0, 10)
    assert none.value == 0.0 and none.low == 0.0 and none.high == pytest.approx(z**2 / (10 + z**2))


def test_the_interval_of_a_bounded_mean_is_wilsons() -> None:
    share = proportion_interval(19, 20)
    half = stats.norm.ppf(0.975) * np.sqrt(0.95 * 0.05 / 20)
    assert bounded_interval(0.95, half, (0, 1)) == (pytest.approx(share.low), pytest.approx(share.high))
    low, high = bounded_interval(0.95, half, (0, 1))
    # Of other bounds it is the same, stretched.
    assert bounded_interval(0.9, 2 * half, (-1, 1)) == (pytest.approx(2 * low - 1), pytest.approx(2 * high - 1))
    assert bounded_interval(0.95, 0.2, None) == (pytest.approx(0.75), pytest.approx(1.15))
    assert bounded_interval(1.0, 0.2, (0, 1)) == (pytest.approx(0.8), 1.0)


def test_an_interval_of_a_bounded_mean_stays_within_its_bounds() -> None:
    values = [1.0, 1.0, 0.9, 1.0, 0.4]
    free, kept = mean_interval(values), mean_interval(values, (-1, 1))
    assert free.high is not None and kept.high is not None and kept.low is not None
    assert free.high > 1 >= kept.high and kept.low > -1 and free.value == kept.value


def test_a_p_value_is_where_the_interval_ends() -> None:
    error = MeanError(((0.1, 2), (0.2, 80)))
    for level in (0.5, 0.95, 0.9999):
        assert error.p(error.half(level)) == pytest.approx(1 - level)
    assert error.p(0.0) == 1.0 and 0 <= error.p(1e9) < 1e-12
    # A mean that is by chance sure of itself is no surer than its floor.
    assert MeanError(((0.0, 2), (0.0, 80)), floor=error).p(0.3) == error.p(0.3)
    assert MeanError(((0.0, 2), (0.0, 80)), floor=error).detectable() == error.detectable() > error.half()


def test_a_crossed_error_is_at_least_what_single_scores_leave() -> None:
    # Both seeds pass as many prompts, but not the same ones.
    found = crossed_error([[1.0, 0, 0, 0, 0], [0, 0, 0, 1, 0]])
    assert found.half() > 0.1 and 0 < found.p(0.2) < 1


def test_what_cannot_be_computed_is_none_and_never_nan() -> None:
    assert mean_interval([]) == NOTHING
    assert mean_interval([3.0]) == Estimate(3.0, None, None, 1)
    assert mean_interval([48, 48, 48]) == Estimate(48.0, None, None, 3)
    assert proportion_interval(0, 0) == NOTHING
    assert paired_difference([], [], seed=0) == NOTHING
    assert paired_difference([0.0], [1.0], seed=0) == Estimate(1.0, None, None, 1)
    assert paired_difference([0.0, 1.0], [0.0, 1.0], seed=0) == Estimate(0.0, None, None, 2)
    assert auc_interval([], [], None, seed=0) == NOTHING
    assert auc_interval([1.0, 2.0], [True, True], None, seed=0) == Estimate(None, None, None, 2)
    assert auc_interval([1.0, 2.0], [True, False], ["p", "p"], seed=0) == Estimate(0.0, None, None, 1)
    assert cluster_interval(np.zeros((0, 2)), lambda totals: totals[:, 0], seed=0) == NOTHING
    assert cluster_interval([[1.0, 0.0]], lambda t: t[:, 0] / t[:, 1], seed=0) == Estimate(None, None, None, 1)
    assert share_interval([], [], seed=0) == NOTHING
    assert smallest_detectable_difference(0, 1.0) is None
    assert smallest_detectable_difference(10, 0.0) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(LabError, match="no finite number"):
        mean_interval([1.0, bad])
    with pytest.raises(LabError, match="diverged"):
        auc_interval([1.0, bad], [True, False], None, seed=0)


def test_unlike_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference([1.0], [1.0, 2.0], seed=0)
    with pytest.raises(ValueError, match="one label per example"):
        auc_interval([1.0, 2.0], [True, False], ["p"], seed=0)


def test_paired_difference_agrees_with_the_normal_interval_of_many_differences() -> None:
    rng = np.random.default_rng(1)
    base, gain = rng.normal(size=800), rng.normal(0.3, 1.0, size=800)
    found = paired_difference(base, base + gain, seed=0)
    assert found.value == pytest.approx(gain.mean())
    assert found.low == pytest.approx(gain.mean() - 1.96 * stats.sem(gain), abs=0.01)
    assert found.high == pytest.approx(gain.mean() + 1.96 * stats.sem(gain), abs=0.01)
    assert found == paired_difference(base, base + gain, seed=0) != paired_difference(base, base + gain, seed=1)


def test_paired_difference_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        base = rng.random(80) < 0.4
        # a fifth of the failures turn into passes, a tenth of the passes into failures: 0.6 * 0.2 - 0.4 * 0.1
        trained = np.where(base, rng.random(80) >= 0.1, rng.random(80) < 0.2)
        found = paired_difference(base, trained, seed=trial)
        covered += found.low is not None and found.high is not None and found.low <= 0.08 <= found.high
    # 95 % of 200 is 190, standard deviation 3
    assert covered >= 180


def test_auc_equals_the_library_with_ties_and_weights() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 8, size=300).astype(float)
    labels = rng.random(300) < scores / 10 + 0.1
    found = auc_interval(scores, labels, None, seed=0)
    assert found.value == pytest.approx(roc_auc_score(labels, scores)) and found.n == 300
    assert found.low is not None and found.high is not None and found.low < found.value < found.high


def test_auc_bootstrap_is_the_one_done_by_hand() -> None:
    rng = np.random.default_rng(4)
    prompts = np.repeat(np.arange(40), 5)
    scores = rng.normal(size=200) + np.repeat(rng.normal(size=40), 5)
    labels = scores + rng.normal(size=200) > 0
    by_hand = []
    for _ in range(500):
        rows = np.concatenate([np.flatnonzero(prompts == prompt) for prompt in rng.integers(0, 40, size=40)])
        by_hand.append(roc_auc_score(labels[rows], scores[rows]))
    found = auc_interval(scores, labels, prompts.tolist(), seed=0)
    assert found.n == 40
    assert [found.low, found.high] == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.015)


def test_auc_covers_the_truth_when_examples_of_a_prompt_are_alike() -> None:
    rng = np.random.default_rng(5)
    truth = stats.norm.cdf(1 / np.sqrt(2 * (1 + 1)))
    prompts = np.repeat(np.arange(50), 4).tolist()
    covered = 0
    for trial in range(100):
        labels = np.repeat(rng.random(50) < 0.5, 4)
        scores = labels + np.repeat(rng.normal(size=50), 4) + rng.normal(size=200)
        found = auc_interval(scores, labels, prompts, seed=trial)
        covered += found.low is not None and found.high is not None and found.low <= truth <= found.high
    # resampling examples instead of prompts covers about two thirds
    assert covered >= 88


def test_share_interval_edges_and_middle() -> None:
    assert share_interval([4, 0, 2], [4, 0, 2], seed=0) == proportion_interval(2, 2)
    assert share_interval([0, 0], [3, 1], seed=0) == proportion_interval(0, 2)
    rng = np.random.default_rng(6)
    hits = rng.binomial(1, 0.3, size=500)
    found, wilson = share_interval(hits, np.ones(500), seed=0), proportion_interval(int(hits.sum()), 500)
    assert found.value == wilson.value
    assert [found.low, found.high] == pytest.approx([wilson.low, wilson.high], abs=0.008)


def test_cluster_sums_keep_the_order_of_first_appearance() -> None:
    assert cluster_sums([[1.0, 1], [2, 1], [4, 1]], ["b", "a", "b"]).tolist() == [[5.0, 2.0], [2.0, 1.0]]


def test_the_smallest_detectable_difference_is_detected_four_times_in_five() -> None:
    n, variance = 100, 0.25
    difference = smallest_detectable_difference(n, variance)
    assert difference == pytest.approx((1.959964 + 0.841621) * 0.05, rel=1e-5)
    means = np.random.default_rng(7).normal(difference, np.sqrt(variance / n), size=20_000)
    assert np.mean(means / np.sqrt(variance / n) > 1.959964) == pytest.approx(0.8, abs=0.01)
