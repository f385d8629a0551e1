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
    Difference,
    Outcome,
    detectable_difference,
    difference,
    difference_by_seed,
    difference_by_seed_and_prompt,
    holm,
    mean_over_seeds,
)
from kto_lab.runs.prompt_scores import PromptScores
from kto_lab.statistics import Estimate, paired_difference


def scored(*scores: float) -> Outcome:
    return Outcome(float(np.mean(scores)), PromptScores.of({f"p{place}": score for place, score in enumerate(scores)}))


def crossed(rng: np.random.Generator, sizes: tuple[int, int], seed: float, prompt: float, rest: float) -> np.ndarray:
    """Differences (S, P) around 0 with these standard deviations."""
    seeds, prompts = sizes
    return rng.normal(0, seed, (seeds, 1)) + rng.normal(0, prompt, (1, prompts)) + rng.normal(0, rest, sizes)


def test_a_mean_over_seeds_is_students_and_says_so() -> None:
    low, high = stats.t.interval(0.95, 2, loc=0.6, scale=stats.sem([0.5, 0.6, 0.7]))
    found = mean_over_seeds([0.5, 0.6, 0.7])
    assert found.interval == OVER_SEEDS
    assert found.estimate == Estimate(pytest.approx(0.6), pytest.approx(low), pytest.approx(high), 3)


def test_one_seed_has_the_interval_of_its_run_by_name() -> None:
    own = Estimate(0.5, 0.4, 0.6, 120)
    found = mean_over_seeds([0.5], own)
    assert (found.interval, found.estimate) == (OVER_PROMPTS, Estimate(0.5, 0.4, 0.6, 1))
    assert mean_over_seeds([0.5]).interval is None
    # With two seeds a run's own interval is not what is asked for.
    assert mean_over_seeds([0.5, 0.7], own).interval == OVER_SEEDS
    assert mean_over_seeds([]).estimate.value is None


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
    assert of_seed > rest
    total = of_seed + of_prompt - rest
    df = total**2 / (of_seed**2 / 2 + of_prompt**2 / 3 + rest**2 / 6)
    half = stats.t.ppf(0.975, df) * np.sqrt(total / found.size)
    result = difference_by_seed_and_prompt(np.zeros_like(found), found)
    assert result.estimate.low == pytest.approx(found.mean() - half)
    assert result.p == pytest.approx(2 * stats.t.sf(found.mean() / np.sqrt(total / found.size), df))
    assert result.p > stats.ttest_1samp(found.mean(axis=1), 0).pvalue


def test_where_seeds_say_less_than_prompts_the_t_test_over_seeds_counts() -> None:
    rng = np.random.default_rng(0)
    found = crossed(rng, (3, 200), seed=0.5, prompt=0.0, rest=0.3) + 0.8
    result = difference_by_seed_and_prompt(np.zeros_like(found), found)
    library = stats.ttest_1samp(found.mean(axis=1), 0)
    assert result.p is not None and result.p >= library.pvalue * (1 - 1e-9)
    assert result.estimate.low is not None
    assert result.estimate.low <= library.confidence_interval(0.95).low + 1e-9


def test_pairs_as_closely_as_the_outcomes_allow() -> None:
    base = {0: scored(0, 1, 0, 1), 1: scored(0, 1, 1, 1), 2: scored(0, 0, 0, 1)}
    method = {1: scored(1, 1, 1, 1), 2: scored(1, 0, 0, 1), 7: scored(0, 0, 0, 0)}
    found = difference(base, method)
    assert (found.paired_by, found.prompts, found.estimate.n) == (BY_SEED_AND_PROMPT, 4, 2)
    assert found.estimate.value == pytest.approx(0.25)
    other = {**method, 1: Outcome(1.0, PromptScores.of({"q1": 1.0, "q2": 1.0}))}
    assert difference(base, {**other, 0: scored(1, 1, 1, 1)}).paired_by == BY_SEED
    assert difference(base, {7: method[7]}) == Difference(Estimate(None, None, None, 0), None, None, None, None)


def test_one_seed_is_no_evidence_on_methods() -> None:
    base, method = [0.0, 1, 0, 0, 1, 0, 1, 0], [1.0, 1, 1, 0, 1, 1, 1, 0]
    found, run = difference({3: scored(*base)}, {3: scored(*method)}), paired_difference(base, method, seed=0)
    assert (found.p, found.detectable, found.paired_by) == (None, None, BY_PROMPT)
    assert (found.estimate.low, found.estimate.high, found.estimate.n) == (run.low, run.high, 1)
    assert difference({3: Outcome(1.0)}, {3: Outcome(2.0)}).estimate == Estimate(1.0, None, None, 1)


def test_differences_that_do_not_vary_are_not_tested() -> None:
    assert difference_by_seed([1.0, 2.0], [2.0, 3.0]).p is None
    same = {seed: scored(0, 1, 1) for seed in range(3)}
    assert difference(same, same) == Difference(Estimate(0.0, None, None, 3), None, None, None, 3)
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
    size = detectable_difference(0.5, df)
    rng = np.random.default_rng(df)
    drawn = (size / 0.5 + rng.normal(size=40_000)) / np.sqrt(rng.chisquare(df, 40_000) / df)
    assert np.mean(np.abs(drawn) > stats.t.ppf(0.975, df)) == pytest.approx(0.8, abs=0.01)


def test_with_many_degrees_of_freedom_it_is_the_normal_one() -> None:
    assert detectable_difference(1.0, 1e5) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), abs=1e-3)
    assert detectable_difference(3.0, 1e5) == pytest.approx(3 * detectable_difference(1.0, 1e5))


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
    assert covered >= 273


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
