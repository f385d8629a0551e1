"""Intervals: every number that is reported comes with one, or says that it has none.

All intervals are 95 %. Examples of one prompt are alike, so where there are several per prompt the bootstrap resamples
prompts (clusters), not examples. An `Estimate` never holds NaN: what cannot be computed is None.

Values that do not vary (an answer length that is always at its limit, a model compared with itself) say nothing about
how much they might, and a bootstrap of them has width zero. They get a value and no interval; shares of 0 or 1 get
Wilson's.

An interval of a metric with bounds, such as a share, stays within them: `bounded_interval`.

Runs of several seeds answer the same prompts, so seeds and prompts are crossed, and a mean over both is uncertain by
both: `crossed_error`.
"""

import math
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kto_lab.errors import LabError

# scipy is imported where it is needed: reading a record's `Estimate`s needs none of it, and scipy.stats takes seconds.
Floats: TypeAlias = NDArray[np.float64]
# The least and the largest value of a metric.
Bounds: TypeAlias = tuple[float, float]

LEVEL = 0.95
RESAMPLES = 4000
# Resampling weights in memory at once.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: the estimate, or None when there is nothing to estimate it from.
        low: lower end of the interval, or None when there is none.
        high: upper end, None together with `low`.
        n: independent units behind it (prompts, documents, or examples where each stands alone).
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain values, ready for a record."""
        return asdict(self)


def mean_interval(values: ArrayLike, bounds: Bounds | None = None) -> Estimate:
    """Mean of independent values (N,), with Student's t interval, kept within `bounds` where the values have any.

    No value at all gives None; a single one, or values that are all the same, give no interval.
    """
    data = _floats(values, "a value")
    if data.size == 0:
        return Estimate(None, None, None, 0)
    mean = float(data.mean())
    if constant(data):
        return Estimate(mean, None, None, data.size)
    return Estimate(mean, *bounded_interval(mean, mean_error(data).half(), bounds), data.size)


def bounded_interval(value: float, half: float, bounds: Bounds | None) -> tuple[float, float]:
    """The interval of a mean between bounds, which stays between them: Wilson's score interval, of any mean.

    Wilson's interval takes the variance of a share p to be proportional to p (1 - p), and solves for p. With half the
    width of the symmetric interval in the place of z sqrt(p (1 - p) / n), that holds for shares of clustered trials
    (Korn & Graubard 1998, Survey Methodology 24, 193-201, by the effective sample size), and for other means of
    bounded values.

    Args:
        value: the mean.
        half: half the width of its symmetric interval.
        bounds: the least and the largest value that there can be; None gives the symmetric interval.

    Returns:
        The ends. A mean at a bound has the symmetric interval's, cut off there.
    """
    if bounds is None:
        return value - half, value + half
    least, width = bounds[0], bounds[1] - bounds[0]
    share, reach = (value - least) / width, half / width
    if not 0 < share < 1:
        return max(bounds[0], value - half), min(bounds[1], value + half)
    shrink = reach**2 / (share * (1 - share))
    middle, around = (share + shrink / 2) / (1 + shrink), math.sqrt(reach**2 + shrink**2 / 4) / (1 + shrink)
    return least + width * max(0.0, middle - around), least + width * min(1.0, middle + around)


@dataclass(frozen=True)
class MeanError:
    """How uncertain a mean is, of one or more independent sources.

    With one source its interval is Student's t. With several the half widths add in quadrature (Howe 1974, J. Am. Stat.
    Assoc. 69, 789-794), so that each keeps its own degrees of freedom: three seeds stay three however many prompts
    there are.

    Attributes:
        sources: the standard error that each contributes, and its degrees of freedom.
        floor: what the mean is at least as uncertain as, if `sources` should say less by chance.
    """

    sources: tuple[tuple[float, float], ...]
    floor: "MeanError | None" = None

    def half(self, level: float = LEVEL) -> float:
        """Half the width of the two-sided interval."""
        own = math.hypot(*(t_quantile(df, level) * stderr for stderr, df in self.sources))
        return own if self.floor is None else max(own, self.floor.half(level))

    def p(self, distance: float) -> float:
        """The two-sided p value of a mean so far from what is tested: an interval of level 1 - p ends there."""
        from scipy import optimize, special

        def beyond(log_p: float) -> float:
            tail = math.exp(log_p) / 2
            return math.hypot(*(special.stdtrit(df, tail) * stderr for stderr, df in self.sources)) - abs(distance)

        if distance == 0:
            return 1.0
        floor = 0.0 if self.floor is None else self.floor.p(distance)
        present = [source for source in self.sources if source[0] > 0]
        if len(present) < 2:
            return max(floor, *(float(2 * special.stdtr(df, -abs(distance) / stderr)) for stderr, df in present), 0.0)
        least = math.log(sys.float_info.min)
        return max(floor, math.exp(optimize.brentq(beyond, least, 0.0)) if beyond(least) > 0 else 0.0)

    def detectable(self, level: float = LEVEL, power: float = 0.8) -> float:
        """The true distance that a test at 1 - level (two-sided) shows with the chance `power`, above 1 - level.

        By the non-central t distribution; of several sources with the degrees of freedom at which its quantile is that
        of their interval.
        """
        from scipy import special

        floor = 0.0 if self.floor is None else self.floor.detectable(level, power)
        present = [source for source in self.sources if source[0] > 0]
        if not present:
            return floor
        stderr = math.hypot(*(stderr for stderr, _ in present))
        quantile = math.hypot(*(t_quantile(df, level) * one for one, df in present)) / stderr
        df = present[0][1] if len(present) == 1 else min(float(special.stdtridf((1 + level) / 2, quantile)), 1e6)
        # The other tail, significant in the wrong direction, adds less than 1e-5 there.
        return max(floor, float(special.nctdtrinc(df, 1 - power, quantile)) * stderr)


def mean_error(values: ArrayLike) -> MeanError:
    """The uncertainty of the mean of two or more independent values (N,)."""
    data = np.asarray(values, dtype=np.float64)
    return MeanError(((float(data.std(ddof=1) / np.sqrt(data.size)), data.size - 1),))


def crossed_error(values: ArrayLike) -> MeanError:
    """The uncertainty of the mean of values (S, P) of which both seeds and prompts are a draw, at least 2 of each.

    The value of seed s at prompt p is mean + seed_s + prompt_p + rest_sp. Over new seeds and new prompts the mean has
    the variance (MS_seed + MS_prompt - MS_rest) / (S P), by the mean squares of the two-way analysis of variance.
    The first term is the variance of a mean of S independent seeds' means, with S - 1 degrees of freedom; what is left
    is what prompts add to it, with P - 1, and at least 0.

    Three to eight seeds are too few for a bootstrap over them (Owen 2007, Ann. Appl. Stat. 1, 386-411, resamples both):
    its variance is short by (S - 1) / S, and it has no t quantiles.
    """
    data = np.asarray(values, dtype=np.float64)
    seeds, prompts = data.shape
    mean, by_seed, by_prompt = data.mean(), data.mean(axis=1, keepdims=True), data.mean(axis=0, keepdims=True)
    of_prompt = seeds * ((by_prompt - mean) ** 2).sum() / (prompts - 1)
    rest = ((data - by_seed - by_prompt + mean) ** 2).sum() / ((seeds - 1) * (prompts - 1))
    of_seeds = mean_error(by_seed.ravel()).sources
    of_prompts = (math.sqrt(max(float(of_prompt - rest), 0.0) / data.size), prompts - 1)
    # Were there neither seeds that are lucky nor prompts that are hard, this would be left.
    least = MeanError(((math.sqrt(float(rest) / data.size), (seeds - 1) * (prompts - 1)),))
    return MeanError((*of_seeds, of_prompts), floor=least)


# Asked for with every number, of samples of a few sizes.
@lru_cache(maxsize=1 << 12)
def t_quantile(df: float, level: float = LEVEL) -> float:
    """The quantile of Student's t that a two-sided interval of this level reaches to, with `df` degrees of freedom."""
    from scipy import special

    return float(special.stdtrit(df, (1 + level) / 2))


def proportion_interval(successes: int, n: int) -> Estimate:
    """Share of successes in n independent trials, with Wilson's score interval (Wilson 1927)."""
    from scipy import special

    if n == 0:
        return Estimate(None, None, None, 0)
    z, share = float(special.ndtri((1 + LEVEL) / 2)), successes / n
    middle = (2 * successes + z**2) / (2 * (n + z**2))
    half = z * math.sqrt(z**2 + 4 * successes * (1 - share)) / (2 * (n + z**2))
    # At the ends the bound is the end itself, but for rounding.
    low, high = (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)
    return Estimate(share, low, high, n)


def paired_difference(base: ArrayLike, trained: ArrayLike, *, seed: int) -> Estimate:
    """Mean of trained - base over the same prompts, with a bootstrap interval (BCa; Efron 1987).

    Args:
        base: (N,) one value per prompt.
        trained: (N,) values for the same prompts, in the same order.
        seed: seeds the resampling.

    Returns:
        The difference. Without prompts None; with one prompt, or when all differences are the same, no interval.
    """
    from scipy import stats

    before, after = _floats(base, "a base value"), _floats(trained, "a trained value")
    if before.shape != after.shape:
        raise ValueError(f"{before.size} base values and {after.size} trained values: they must be the same prompts.")
    differences = after - before
    if differences.size == 0:
        return Estimate(None, None, None, 0)
    mean = float(differences.mean())
    if constant(differences):
        return Estimate(mean, None, None, differences.size)
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="BCa",
        batch=max(1, _BLOCK // differences.size),
        rng=np.random.default_rng(seed),
    )
    interval = found.confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), differences.size)


def smallest_detectable_difference(n: int, variance: float, power: float = 0.8) -> float | None:
    """The smallest true mean difference that n paired prompts would show, at the 5 % level (two-sided normal test).

    Args:
        n: prompts.
        variance: variance of the paired differences. For pass or fail it is d - m**2, with d the share of prompts
            whose outcome changed and m the mean difference.
        power: chance of showing it.

    Returns:
        (z_0.975 + z_power) sqrt(variance / n), or None where it cannot be known: no prompts, or no variance seen.
    """
    from scipy import special

    if n == 0 or variance <= 0:
        return None
    return float((special.ndtri((1 + LEVEL) / 2) + special.ndtri(power)) * np.sqrt(variance / n))


def auc_interval(scores: ArrayLike, labels: ArrayLike, clusters: Sequence[Hashable] | None, *, seed: int) -> Estimate:
    """The chance that a positive example scores above a negative one, ties counting 1/2 (area under the ROC curve).

    Args:
        scores: (N,) scores.
        labels: (N,) booleans, True for positive.
        clusters: (N,) what each example belongs to (its prompt), or None when each stands alone.
        seed: seeds the bootstrap over clusters.

    Returns:
        The AUC; None when there are not both classes. `n` counts clusters.
    """
    data = _floats(scores, "a score")
    positive = np.asarray(labels, dtype=bool)
    member, count = _members(clusters, data.size)
    if not positive.any() or positive.all():
        return Estimate(None, None, None, count)
    order = np.argsort(data, kind="stable")
    ranked, positive, member = data[order], positive[order], member[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])

    def area(weights: Floats) -> Floats:
        by_example = weights[:, member]
        above = np.add.reduceat(by_example * positive, starts, axis=1)
        below = np.add.reduceat(by_example * ~positive, starts, axis=1)
        wins = (above * (below.cumsum(axis=1) - below / 2)).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return wins / (above.sum(axis=1) * below.sum(axis=1))

    return _bootstrap(area, count, width=data.size, seed=seed)


def cluster_interval(sums: ArrayLike, statistic: Callable[[Floats], Floats], *, seed: int) -> Estimate:
    """A statistic of sums over clusters, with a percentile bootstrap over the clusters.

    With fewer than about ten clusters such an interval is too narrow.

    Args:
        sums: (C, K) for each cluster (prompt), K sums over its examples, such as how many are right and how many.
        statistic: takes totals (B, K) and returns (B,); where a total makes it undefined it returns NaN.
        seed: seeds the resampling.
    """
    table = _floats(sums, "a cluster's sum")
    if len(table) == 0:
        return Estimate(None, None, None, 0)

    def of_weights(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return statistic(weights @ table)

    return _bootstrap(of_weights, len(table), width=len(table), seed=seed)


def share_interval(hits: ArrayLike, counts: ArrayLike, *, seed: int) -> Estimate:
    """Share of hits in counts, both summed per cluster, with a bootstrap over the clusters.

    Args:
        hits: (C,) successes in each cluster, halves allowed.
        counts: (C,) trials in each cluster; clusters without trials are left out.
        seed: seeds the resampling.

    Returns:
        The share over all trials. One of exactly 0 or 1 has Wilson's interval for C trials, which is not zero wide.
    """
    trials = _floats(counts, "a count")
    sums = np.stack([_floats(hits, "a number of hits"), trials], axis=-1)[trials > 0]
    if len(sums) and sums[:, 0].sum() in (0, sums[:, 1].sum()):
        return proportion_interval(len(sums) if sums[:, 0].any() else 0, len(sums))
    return cluster_interval(sums, lambda totals: totals[:, 0] / totals[:, 1], seed=seed)


def cluster_sums(values: ArrayLike, clusters: Sequence[Hashable]) -> Floats:
    """Sum rows (N, K) a cluster: (C, K), clusters in order of first appearance."""
    rows = np.asarray(values, dtype=np.float64)
    member, count = _members(clusters, len(rows))
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, member, rows)
    return sums


def _bootstrap(statistic: Callable[[Floats], Floats], clusters: int, *, width: int, seed: int) -> Estimate:
    """Percentile interval of a statistic of cluster weights (B, C); resamples where it is undefined are left out."""
    value = float(statistic(np.ones((1, clusters)))[0])
    if not np.isfinite(value):
        return Estimate(None, None, None, clusters)
    if clusters == 1:
        return Estimate(value, None, None, 1)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(width, clusters))
    found = []
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        found.append(statistic(rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=size).astype(float)))
    values = np.concatenate(found)
    values = values[np.isfinite(values)]
    if values.size < RESAMPLES / 2 or constant(values):
        return Estimate(value, None, None, clusters)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), clusters)


def _members(clusters: Sequence[Hashable] | None, size: int) -> tuple[NDArray[np.int64], int]:
    """The cluster number (N,) of each example, and how many clusters there are."""
    if clusters is None:
        return np.arange(size), size
    if len(clusters) != size:
        raise ValueError(f"{size} examples and {len(clusters)} cluster labels: there must be one label per example.")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=np.int64), len(numbers)


def constant(data: Floats) -> bool:
    """Whether the values are one and the same, but for rounding: then nothing says how they would vary."""
    return bool(np.ptp(data) <= 1e-12 * max(1.0, float(np.abs(data).max())))


def _floats(values: ArrayLike, what: str) -> Floats:
    """The values as float64. LabError when one is no finite number: it would spread to every result."""
    data = np.asarray(values, dtype=np.float64)
    if not np.isfinite(data).all():
        place = ", ".join(str(index) for index in np.argwhere(~np.isfinite(data))[0])
        raise LabError(
            f"Evaluation: {what} (at {place} of {data.shape}) is no finite number. The policy has probably diverged: "
            "see the training curves, and lower the learning rate."
        )
    return data
