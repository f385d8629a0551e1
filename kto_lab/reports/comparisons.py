"""Comparing methods over seeds: means, paired differences, and which of them to believe. Pure functions, no bootstrap.

**A mean over seeds** has Student's t interval over seeds: how much training varies, on these prompts. With one seed
there is only the run's own interval over prompts, which says nothing of other seeds; `Mean.interval` names which it is.

**A difference to a baseline** is paired by seed, and where every prompt has a score also by prompt. All runs answer the
same prompts, so seeds and prompts are crossed: the difference of seed s on prompt p is

    d_sp = mean + seed_s + prompt_p + rest_sp

and the mean of S x P of them has the variance (MS_seed + MS_prompt - MS_rest) / (S P), from the mean squares of the
two-way analysis of variance, with Satterthwaite's degrees of freedom: Clark's quasi-F (1973, J. Verbal Learning and
Verbal Behavior 12, 335-359). A mean square below MS_rest counts as MS_rest. Three to eight seeds are too few for a
bootstrap over them: its variance is short by (S - 1) / S and it has no t quantiles; and prompts drawn anew within each
seed would treat an easy prompt as luck of one seed. Where the seeds' mean square is by chance small, the quasi-F
is too sure of itself, so the t test over the seeds' mean differences must agree: the wider interval and the larger p
are reported. False positives at 5 %, simulated with 3 seeds and 120 prompts (seeds' standard deviation 0, 0.06 and
0.15, prompts' 0.3, rest 0.4): 2 %, 3 % and 5 % like this; 2 %, 5 % and 8 % by the quasi-F alone; 12 %, 7 % and 6 % by
the t test over seeds; 4 %, 6 % and 18 % by a bootstrap of prompts within seeds. The most seen like this, over 2 to 8
seeds and 40 or 120 prompts, was 7 %.

With one seed the difference has an interval over prompts and no p value: one pair of runs is no evidence on methods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from kto_lab.runs.prompt_scores import PromptScores
from kto_lab.statistics import Estimate, mean_interval, paired_difference, t_quantile

POWER = 0.8
OVER_SEEDS = "seeds"
OVER_PROMPTS = "prompts of one run"
BY_SEED = "seed"
BY_SEED_AND_PROMPT = "seed and prompt"
BY_PROMPT = "prompt, of one seed"


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        estimate: the mean with its interval; `n` counts the seeds.
        interval: what the interval is over: `OVER_SEEDS`, `OVER_PROMPTS`, or None where there is no interval.
    """

    estimate: Estimate
    interval: str | None


@dataclass(frozen=True)
class Outcome:
    """One metric of one run.

    Attributes:
        value: the metric.
        scores: of single prompts, where each has one; their mean is `value`.
    """

    value: float
    scores: PromptScores | None = None


@dataclass(frozen=True)
class Difference:
    """The difference of a method to its baseline.

    Attributes:
        estimate: method - baseline with its 95 % interval; `n` counts the seeds that both have.
        p: two-sided, of no difference; None with one seed, or where nothing varies.
        detectable: the true difference that an experiment like this shows at the 5 % level in 80 of 100 cases; None
            where it cannot be known.
        paired_by: `BY_SEED_AND_PROMPT`, `BY_SEED`, `BY_PROMPT`, or None where there is no interval.
        prompts: how many each run was paired on; None where it was not paired by prompt.
    """

    estimate: Estimate
    p: float | None
    detectable: float | None
    paired_by: str | None
    prompts: int | None


def mean_over_seeds(values: Sequence[float], own: Estimate | None = None) -> Mean:
    """Mean of a metric over seeds.

    Args:
        values: (S,) one value a seed.
        own: with one seed, the estimate of that run, whose interval is then used.
    """
    if len(values) == 1 and own is not None and own.low is not None:
        return Mean(Estimate(values[0], own.low, own.high, 1), OVER_PROMPTS)
    found = mean_interval(values)
    return Mean(found, None if found.low is None else OVER_SEEDS)


def difference(baseline: Mapping[int, Outcome], method: Mapping[int, Outcome], *, seed: int = 0) -> Difference:
    """Method - baseline over the seeds that both have, paired as closely as the outcomes allow.

    Args:
        baseline: seed to the outcome of the baseline's run.
        method: seed to the outcome of the method's run.
        seed: seeds the bootstrap over prompts, which only one seed needs.

    Returns:
        The difference. Paired by prompt only where all these runs have scores of the same two or more prompts.
    """
    seeds = sorted(baseline.keys() & method.keys())
    if not seeds:
        return Difference(Estimate(None, None, None, 0), None, None, None, None)
    pairs = [(baseline[one], method[one]) for one in seeds]
    scores = _on_same_prompts([outcome for pair in pairs for outcome in pair])
    if scores is None or scores.shape[1] < 2:
        return difference_by_seed([before.value for before, _ in pairs], [after.value for _, after in pairs])
    before, after = scores[0::2], scores[1::2]
    if len(seeds) == 1:
        found = paired_difference(before[0], after[0], seed=seed)
        by = None if found.low is None else BY_PROMPT
        return Difference(Estimate(found.value, found.low, found.high, 1), None, None, by, scores.shape[1])
    return difference_by_seed_and_prompt(before, after)


def difference_by_seed(baseline: ArrayLike, method: ArrayLike) -> Difference:
    """Mean of method - baseline (S,), (S,), with the paired t test over seeds."""
    found = np.asarray(method, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    value, seeds = float(found.mean()), found.size
    if seeds == 1 or _no_spread(found):
        return Difference(Estimate(value, None, None, seeds), None, None, None, None)
    return _difference([_Test(value, _standard_error(found), seeds - 1)], seeds, BY_SEED, None)


def difference_by_seed_and_prompt(baseline: ArrayLike, method: ArrayLike) -> Difference:
    """Mean of method - baseline, scores (S, P) of seeds on the same prompts, as the module describes.

    S and P are at least 2.
    """
    found = np.asarray(method, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    seeds, prompts = found.shape
    if _no_spread(found):
        return Difference(Estimate(float(found.mean()), None, None, seeds), None, None, None, prompts)
    tests, means = [_crossed(found)], found.mean(axis=1)
    if not _no_spread(means):
        tests.append(_Test(float(found.mean()), _standard_error(means), seeds - 1))
    return _difference(tests, seeds, BY_SEED_AND_PROMPT, prompts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979, Scand. J. Statistics 6, 65-70), in the order given.

    Rejecting those up to 0.05 keeps the chance of any false rejection at 5 %, however the tests depend on one another.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(order))
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]


def detectable_difference(stderr: float, df: float, power: float = POWER) -> float:
    """The true difference that a t test at the 5 % level (two-sided) shows with the chance `power`.

    Args:
        stderr: standard error of the difference, above 0.
        df: degrees of freedom.
        power: the chance, above 0.05.

    Returns:
        The non-centrality at which the non-central t has that power, times `stderr`.
    """
    # The other tail, significant in the wrong direction, adds less than 1e-5 there.
    return float(special.nctdtrinc(df, 1 - power, t_quantile(df))) * stderr


@dataclass(frozen=True)
class _Test:
    """A t test of a mean against 0."""

    value: float
    stderr: float
    df: float

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return t_quantile(self.df) * self.stderr

    @property
    def p(self) -> float:
        """Two-sided."""
        return float(2 * special.stdtr(self.df, -abs(self.value) / self.stderr))


def _difference(tests: Sequence[_Test], seeds: int, paired_by: str, prompts: int | None) -> Difference:
    """What tests of one difference say together: the one that is least sure of it counts."""
    widest = max(tests, key=lambda test: test.half)
    return Difference(
        estimate=Estimate(widest.value, widest.value - widest.half, widest.value + widest.half, seeds),
        p=max(test.p for test in tests),
        detectable=detectable_difference(widest.stderr, widest.df),
        paired_by=paired_by,
        prompts=prompts,
    )


def _crossed(found: NDArray[np.float64]) -> _Test:
    """Clark's quasi-F for the mean of differences (S, P)."""
    seeds, prompts = found.shape
    mean, by_seed, by_prompt = found.mean(), found.mean(axis=1, keepdims=True), found.mean(axis=0, keepdims=True)
    degrees = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)], dtype=np.float64)
    squares = [
        prompts * ((by_seed - mean) ** 2).sum(),
        seeds * ((by_prompt - mean) ** 2).sum(),
        ((found - by_seed - by_prompt + mean) ** 2).sum(),
    ]
    of_seed, of_prompt, rest = np.array(squares) / degrees
    parts = np.array([max(of_seed, rest), max(of_prompt, rest), -rest])
    total = parts.sum()
    return _Test(float(mean), float(np.sqrt(total / found.size)), float(total**2 / (parts**2 / degrees).sum()))


def _on_same_prompts(outcomes: Sequence[Outcome]) -> NDArray[np.float64] | None:
    """Scores (outcomes, P); None where the prompts are not the same in all."""
    found = [one.scores for one in outcomes if one.scores is not None]
    if len(found) < len(outcomes) or any(one.prompts != found[0].prompts for one in found):
        return None
    return np.array([one.numbers for one in found])


def _standard_error(found: NDArray[np.float64]) -> float:
    """Of the mean of independent values."""
    return float(found.std(ddof=1) / np.sqrt(found.size))


def _no_spread(found: NDArray[np.float64]) -> bool:
    """Whether all differences are one and the same, but for rounding: then nothing says how they would vary."""
    return bool(np.ptp(found) <= 1e-12 * max(1.0, float(np.abs(found).max())))
