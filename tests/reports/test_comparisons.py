import itertools

import numpy as np
import pytest
from scipy import stats

from kto_lab.reports.comparisons import (
    BY_PROMPT,
    BY_SEED,
    BY_SEED_AND_PROMPT,
    OVER_PROMPTS,
    OVER_SEEDS,
    OVER_SEEDS_AND_PROMPTS,
    Difference,
    Outcome,
    difference,
    difference_by_seed,
    difference_by_seed_and_prompt,
    holm,
    mean_over_seeds,
)
from kto_lab.runs.prompt_scores import PromptScores
from kto_lab.statistics import Estimate, MeanError, paired_difference, proportion_interval


def scored(*scores: float) -> Outcome:
    return Outcome(float(np.mean(scores)), PromptScores.of({f"p{place}": score for place, score in enumerate(scores)}))


def crossed(rng: np.random.Generator, sizes: tuple[int, int], seed: float, prompt: float, rest: float) -> np.ndarray:
    """Differences (S, P) around 0 with these standard deviations."""
    seeds, prompts = sizes
    return rng.normal(0, seed, (seeds, 1)) + rng.normal(0, prompt, (1, prompts)) + rng.normal(0, rest, sizes)


def outcomes(*values: float) -> list[Outcome]:
    return [Outcome(value) for value in values]


def test_a_mean_over_seeds_is_students_and_says_so() -> None:
    low, high = stats.t.interval(0.95, 2, loc=0.6, scale=stats.sem([0.5, 0.6, 0.7]))
    found = mean_over_seeds(outcomes(0.5, 0.6, 0.7))
    assert found.interval == OVER_SEEDS
    assert found.estimate == Estimate(pytest.approx(0.6), pytest.approx(low), pytest.approx(high), 3)


def test_one_seed_has_the_interval_of_its_run_by_name() -> None:
    own = Outcome(0.5, own=Estimate(0.5, 0.4, 0.6, 120))
    found = mean_over_seeds([own])
    assert (found.interval, found.estimate) == (OVER_PROMPTS, Estimate(0.5, 0.4, 0.6, 1))
    assert mean_over_seeds(outcomes(0.5)).interval is None
    # Where another run has none, what it is over is the seeds.
    assert mean_over_seeds([own, Outcome(0.7)]).interval == OVER_SEEDS
    assert mean_over_seeds([]).estimate.value is None


def test_a_mean_over_seeds_is_as_uncertain_as_its_prompts_are() -> None:
    # What was published as 0.010 wide to each side: runs that agree, on prompts of which some always pass.
    prompts = np.random.default_rng(0).random(167) < 0.95
    runs = [np.where(np.arange(167) < seed, 1 - prompts, prompts).astype(float) for seed in range(3)]
    found = mean_over_seeds([scored(*run) for run in runs], (0, 1))
    alone = mean_over_seeds(outcomes(*(run.mean() for run in runs)))
    share = proportion_interval(int(prompts.sum()), 167)
    assert found.interval == OVER_SEEDS_AND_PROMPTS
    assert None not in (found.estimate.low, found.estimate.high, alone.estimate.low, alone.estimate.high)
    wide, narrow = (one.estimate.high - one.estimate.low for one in (found, alone))  # type: ignore[operator]
    assert wide > 2 * narrow
    assert wide == pytest.approx(share.high - share.low, rel=0.35)  # type: ignore[operator]


def test_without_scores_of_prompts_the_intervals_of_the_runs_are_added() -> None:
    runs = [Outcome(value, own=Estimate(value, value - 0.2, value + 0.1, 40)) for value in (0.5, 0.6, 0.7)]
    found, seeds = mean_over_seeds(runs), mean_over_seeds(outcomes(0.5, 0.6, 0.7)).estimate
    assert found.interval == OVER_SEEDS_AND_PROMPTS and seeds.low is not None
    assert found.estimate.low == pytest.approx(0.6 - np.hypot(0.6 - seeds.low, 0.2))
    assert found.estimate.high == pytest.approx(0.6 + np.hypot(0.6 - seeds.low, 0.1))


@pytest.mark.parametrize("values", [(0.992, 1.0, 0.985), (1.0, 1.0, 0.999), (0.02, 0.0, 0.0), (0.9, 0.2, 0.99)])
def test_an_interval_of_a_share_stays_among_shares(values: tuple[float, ...]) -> None:
    own = [Outcome(value, own=Estimate(value, max(0.0, value - 0.1), min(1.0, value + 0.1), 40)) for value in values]
    for runs in (outcomes(*values), own):
        found = mean_over_seeds(runs, (0, 1)).estimate
        assert found.value is not None and found.low is not None and found.high is not None
        assert 0 <= found.low < found.value < found.high <= 1
    assert mean_over_seeds(outcomes(*values)).estimate != mean_over_seeds(outcomes(*values), (0, 1)).estimate


def test_what_passes_always_has_wilsons_interval_of_its_prompts() -> None:
    found = mean_over_seeds([scored(*[1.0] * 40)] * 3, (0, 1))
    share = proportion_interval(40, 40)
    assert found.estimate == Estimate(1.0, share.low, share.high, 3)
    # A length that is always at its limit says nothing of how much it might vary.
    assert mean_over_seeds([scored(*[48.0] * 40)] * 3).estimate == Estimate(48.0, None, None, 3)


def test_pairing_by_seed_is_the_paired_t_test() -> None:
    base, method = [0.50, 0.58, 0.55, 0.61], [0.60, 0.66, 0.61, 0.77]
    found, library = difference_by_seed(base, method), stats.ttest_rel(method, base)
    interval = library.confidence_interval(0.95)
    assert found.p == pytest.approx(library.pvalue)
    assert found.estimate == Estimate(pytest.approx(0.1), pytest.approx(interval.low), pytest.approx(interval.high), 4)
    assert (found.paired_by, found.prompts) == (BY_SEED, None)


def test_the_crossed_variance_is_that_of_the_analysis_of_variance() -> None:
    found = np.array([[1.0, 2, 6, 3], [2, 2, 7, 3], [0, 3, 5, 1]])
    seeds, prompts = found.shape
    # Mean squares by sums over cells, another way round than in the module.
    grand = found.sum() ** 2 / found.size
    of_seed = ((found.sum(1) ** 2).sum() / prompts - grand) / (seeds - 1)
    of_prompt = ((found.sum(0) ** 2).sum() / seeds - grand) / (prompts - 1)
    within = (found**2).sum() - (found.sum(1) ** 2).sum() / prompts - (found.sum(0) ** 2).sum() / seeds + grand
    rest = within / ((seeds - 1) * (prompts - 1))
    result = difference_by_seed_and_prompt(np.zeros_like(found), found)
    by_seed, by_prompt = stats.t.ppf(0.975, 2) ** 2 * of_seed, stats.t.ppf(0.975, 3) ** 2 * (of_prompt - rest)
    assert result.estimate.low == pytest.approx(found.mean() - np.sqrt((by_seed + by_prompt) / found.size))
    assert result.p is not None and result.p > stats.ttest_1samp(found.mean(axis=1), 0).pvalue
    # The interval of level 1 - p ends at what is tested.
    assert result.error is not None and result.error.half(1 - result.p) == pytest.approx(found.mean())


def test_where_seeds_say_less_than_prompts_the_t_test_over_seeds_counts() -> None:
    rng = np.random.default_rng(0)
    found = crossed(rng, (3, 200), seed=0.5, prompt=0.0, rest=0.3) + 0.8
    result = difference_by_seed_and_prompt(np.zeros_like(found), found)
    library = stats.ttest_1samp(found.mean(axis=1), 0)
    assert result.p is not None and result.p >= library.pvalue * (1 - 1e-9)
    assert result.estimate.low is not None
    assert result.estimate.low <= library.confidence_interval(0.95).low + 1e-9


def test_without_seeds_prompts_are_what_is_left() -> None:
    # Every seed gives the same answers: the paired t test over prompts.
    one = np.random.default_rng(0).normal(0.2, 1, 80)
    result, library = difference_by_seed_and_prompt(np.zeros((4, 80)), [one] * 4), stats.ttest_1samp(one, 0)
    assert result.p == pytest.approx(library.pvalue)
    interval = library.confidence_interval(0.95)
    assert (result.estimate.low, result.estimate.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_pairs_as_closely_as_the_outcomes_allow() -> None:
    base = {0: scored(0, 1, 0, 1), 1: scored(0, 1, 1, 1), 2: scored(0, 0, 0, 1)}
    method = {1: scored(1, 1, 1, 1), 2: scored(1, 0, 0, 1), 7: scored(0, 0, 0, 0)}
    found = difference(base, method)
    assert (found.paired_by, found.prompts, found.estimate.n) == (BY_SEED_AND_PROMPT, 4, 2)
    assert found.estimate.value == pytest.approx(0.25)
    other = {**method, 1: Outcome(1.0, PromptScores.of({"q1": 1.0, "q2": 1.0}))}
    assert difference(base, {**other, 0: scored(1, 1, 1, 1)}).paired_by == BY_SEED
    assert difference(base, {7: method[7]}) == Difference(Estimate(None, None, None, 0), None, None)


def test_one_seed_is_no_evidence_on_methods() -> None:
    base, method = [0.0, 1, 0, 0, 1, 0, 1, 0], [1.0, 1, 1, 0, 1, 1, 1, 0]
    found, run = difference({3: scored(*base)}, {3: scored(*method)}), paired_difference(base, method, seed=0)
    assert (found.p, found.detectable(), found.paired_by) == (None, None, BY_PROMPT)
    assert (found.estimate.low, found.estimate.high, found.estimate.n) == (run.low, run.high, 1)
    assert difference({3: Outcome(1.0)}, {3: Outcome(2.0)}).estimate == Estimate(1.0, None, None, 1)


def test_differences_that_do_not_vary_are_not_tested() -> None:
    assert difference_by_seed([1.0, 2.0], [2.0, 3.0]).p is None
    same = {seed: scored(0, 1, 1) for seed in range(3)}
    assert difference(same, same) == Difference(Estimate(0.0, None, None, 3), None, 3)
    # All seeds differ by the same on average, but not on the same prompts.
    found = difference_by_seed_and_prompt(np.zeros((2, 4)), [[1, 0, 0, 0], [0, 1, 0, 0]])
    assert found.p is not None and found.p > 0.05


def test_holm_is_the_closure_of_bonferroni() -> None:
    p_values = [0.01, 0.04, 0.012, 0.8, 0.03]
    for place, adjusted in enumerate(holm(p_values)):
        # A hypothesis is rejected where Bonferroni rejects every intersection that it is part of.
        subsets = [
            [p_values[member] for member in members]
            for size in range(1, 6)
            for members in itertools.combinations(range(5), size)
            if place in members
        ]
        assert adjusted == pytest.approx(min(1.0, max(len(subset) * min(subset) for subset in subsets)))
    assert holm([]) == []
    # R's p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm")
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])


@pytest.mark.parametrize("df", [1, 2, 4, 30])
def test_the_detectable_difference_is_detected_four_times_in_five(df: int) -> None:
    size = MeanError(((0.5, df),)).detectable()
    rng = np.random.default_rng(df)
    drawn = (size / 0.5 + rng.normal(size=40_000)) / np.sqrt(rng.chisquare(df, 40_000) / df)
    assert np.mean(np.abs(drawn) > stats.t.ppf(0.975, df)) == pytest.approx(0.8, abs=0.01)


def test_with_many_degrees_of_freedom_it_is_the_normal_one() -> None:
    found = MeanError(((1.0, 1e5),)).detectable()
    assert found == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), abs=1e-3)
    assert MeanError(((3.0, 1e5),)).detectable() == pytest.approx(3 * found)


def test_among_more_comparisons_a_difference_must_be_larger_to_be_shown() -> None:
    rng = np.random.default_rng(3)
    draws = difference_by_seed_and_prompt(np.zeros((3, 60)), crossed(rng, (3, 60), 0.05, 0.3, 0.4))
    one, ten = draws.detectable(), draws.detectable(10)
    assert one is not None and ten is not None and ten > 1.3 * one
    assert draws.error is not None and ten == draws.error.detectable(1 - 0.05 / 10)


def test_the_detectable_difference_of_crossed_runs_is_detected_four_times_in_five() -> None:
    rng = np.random.default_rng(4)
    # The median design says how large; then it is tried.
    drawn = [crossed(rng, (5, 60), 0.05, 0.3, 0.4) for _ in range(400)]
    zero = np.zeros((5, 60))
    size = np.median([difference_by_seed_and_prompt(zero, one).detectable() for one in drawn])  # type: ignore[misc]
    shown = [difference_by_seed_and_prompt(zero, one + size).p for one in drawn]
    # Standard deviation 0.02.
    assert np.mean([p is not None and p <= 0.05 for p in shown]) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(
    ("seeds", "of_seed", "of_prompt"), [(3, 0.0, 0.3), (3, 0.06, 0.3), (3, 0.15, 0.3), (5, 0.15, 0.0), (5, 0.06, 0.3)]
)
def test_the_interval_of_a_difference_covers_the_truth(seeds: int, of_seed: float, of_prompt: float) -> None:
    rng = np.random.default_rng([seeds, int(100 * of_seed), int(100 * of_prompt)])
    zero = np.zeros((seeds, 60))
    covered = 0
    for _ in range(300):
        found = difference_by_seed_and_prompt(zero, crossed(rng, (seeds, 60), of_seed, of_prompt, 0.4)).estimate
        covered += found.low is not None and found.high is not None and found.low <= 0 <= found.high
    # 95 % of 300 is 285, standard deviation 4.
    assert covered >= 275


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("rate", [0.6, 0.96])
def test_the_interval_of_a_share_over_seeds_and_prompts_covers_the_truth(seeds: int, rate: float) -> None:
    rng = np.random.default_rng([seeds, int(100 * rate)])
    prompts = 80
    # Logits of passing: hard prompts and lucky seeds; the truth by the mean over many of both.
    start = np.log(rate / (1 - rate))
    normal = start + np.hypot(1.5, 0.4) * stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    truth = float(np.mean(1 / (1 + np.exp(-normal))))
    names = tuple(f"p{place:02}" for place in range(prompts))
    covered = over_seeds = 0
    for _ in range(300):
        logits = start + rng.normal(0, 1.5, (1, prompts)) + rng.normal(0, 0.4, (seeds, 1))
        passed = (rng.random((seeds, prompts)) < 1 / (1 + np.exp(-logits))).astype(float)
        runs = [Outcome(float(row.mean()), PromptScores(names, row)) for row in passed]
        found = mean_over_seeds(runs, (0, 1)).estimate
        assert found.low is not None and found.high is not None and 0 <= found.low <= found.high <= 1
        covered += found.low <= truth <= found.high
        alone = mean_over_seeds(outcomes(*(run.value for run in runs))).estimate
        over_seeds += alone.low is not None and alone.high is not None and alone.low <= truth <= alone.high
    # 95 % of 300 is 285, standard deviation 4; over seeds alone it is what it was for other prompts.
    assert covered >= 274
    assert over_seeds < covered


def test_prompts_that_are_easy_in_every_seed_do_not_count_as_evidence_twice() -> None:
    rng = np.random.default_rng(1)
    zero, by_seed = np.zeros((5, 60)), 0
    for _ in range(300):
        found = crossed(rng, (5, 60), 0.0, 0.3, 0.4)
        by_seed += stats.ttest_1samp(found.mean(axis=1), 0).pvalue <= 0.05
    # The t test over seeds alone is for these prompts only: for others it finds far too much.
    assert by_seed > 45
    assert difference_by_seed_and_prompt(zero, found).prompts == 60


def test_holm_keeps_the_chance_of_any_false_finding() -> None:
    rng = np.random.default_rng(2)
    false = without = 0
    for _ in range(250):
        base = rng.random((3, 40)) < 0.5
        tests = [difference_by_seed_and_prompt(base, rng.random((3, 40)) < 0.5).p for _ in range(4)]
        p_values = [p for p in tests if p is not None]
        false += min(holm(p_values), default=1.0) <= 0.05
        without += sum(p <= 0.05 for p in p_values)
    # 5 % of 250 is 12.5, standard deviation 3.4.
    assert false <= 20
