"""How often thumbs are wrong: estimates of rho_D = P(thumb down | truly up) and rho_U = P(thumb up | truly down).

Three estimators, with 95 % percentile intervals from a bootstrap over prompts:

- `noise_aware`: what the combination of all signals fits (see `combined`), near `raters` where there are those. It
  supposes that the signals are sure somewhere, and that a class's thumbs are wrong alike wherever they are. Advice is
  taken from it.
- `confident_learning`: the joint of given and true labels that cleanlab counts from the out-of-fold signal (Northcutt
  et al. 2021, "Confident Learning", arXiv 1911.00068). It takes the classifier's confident contradictions for wrong
  labels, so that it is too high where the classifier is weak. Its interval has the sampling of prompts in it, and not
  the classifier's own error.
- `raters`: from several thumbs on one answer, by Dawid and Skene's model. It supposes that their errors are
  independent and that an answer has one truth.

How far each is off where the truth is known is measured in results/feedback/audit.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kto_lab.auditing.combined import Combined, sigmoid
from kto_lab.auditing.examples import Bools, Examples, Floats
from kto_lab.auditing.raters import Reliability, Votes, dawid_skene
from kto_lab.auditing.signals import Signal
from kto_lab.evaluation.statistics import LEVEL, Estimate

RESAMPLES = 100
# Dawid and Skene's model tells wrong thumbs apart by answers with three thumbs or more: so many are asked for.
LEAST_THUMBS = 3
LEAST_ANSWERS = 50


@dataclass(frozen=True)
class Rates:
    """Estimated flip rates.

    Attributes:
        method: "noise_aware", "confident_learning" or "raters".
        desirable: rho_D, the share of truly desirable examples whose thumb is down.
        undesirable: rho_U, the share of truly undesirable ones whose thumb is up.
    """

    method: str
    desirable: Estimate
    undesirable: Estimate

    @property
    def values(self) -> tuple[float, float] | None:
        """rho_D and rho_U; None where one is not known."""
        down, up = self.desirable.value, self.undesirable.value
        return None if down is None or up is None else (down, up)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def of_combined(combined: Combined, examples: Examples) -> Rates:
    """The rates of the noise-aware fit."""
    fit = combined.fit
    return _rates("noise_aware", (fit.rho_desirable, fit.rho_undesirable), combined.drawn, _prompts(examples))


def of_confident_learning(signal: Signal, examples: Examples, *, seed: int) -> Rates:
    """The rates at which out-of-fold probabilities contradict the labels, as cleanlab counts them."""
    order = np.argsort(examples.prompt_numbers, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(examples.prompt_numbers))[:-1])

    def rates(counts: Floats) -> tuple[float, float]:
        rows = np.concatenate([np.tile(members[place], int(counts[place])) for place in np.flatnonzero(counts)])
        return _joint_rates(signal.up[rows], examples.labels[rows])

    return _bootstrapped("confident_learning", rates, len(members), seed)


def _joint_rates(up: Floats, labels: Bools) -> tuple[float, float]:
    from cleanlab.count import estimate_joint

    if labels.all() or not labels.any():
        return np.nan, np.nan
    joint = estimate_joint(labels.astype(int), np.stack([1 - up, up], axis=-1))
    # Rows are given labels, columns true ones.
    with np.errstate(invalid="ignore"):
        return float(joint[0, 1] / joint[:, 1].sum()), float(joint[1, 0] / joint[:, 0].sum())


def cleanlab_issues(signal: Signal, labels: Bools) -> Bools:
    """(N,) the labels that cleanlab would have corrected, of out-of-fold probabilities."""
    from cleanlab.filter import find_label_issues

    return find_label_issues(labels.astype(int), np.stack([1 - signal.up, signal.up], axis=-1), n_jobs=1)


def of_raters(votes: Votes, found: Reliability, examples: Examples, *, seed: int) -> Rates | None:
    """The rates at which the labels differ from what all thumbs together say; None where too few answers have three."""
    if (votes.thumbs >= LEAST_THUMBS).sum() < LEAST_ANSWERS:
        return None
    prompt_of = examples.prompt_numbers
    prompt_of_item = np.zeros(len(votes.thumbs), dtype=np.int64)
    prompt_of_item[votes.item_of] = prompt_of

    def rates(counts: Floats) -> tuple[float, float]:
        fitted = dawid_skene(votes, counts[prompt_of_item], start=found.logits)
        true_up = sigmoid(fitted.logits)[votes.item_of] * counts[prompt_of]
        true_down = counts[prompt_of] - true_up
        with np.errstate(invalid="ignore", divide="ignore"):
            return (
                float(true_up[~examples.labels].sum() / true_up.sum()),
                float(true_down[examples.labels].sum() / true_down.sum()),
            )

    return _bootstrapped("raters", rates, _prompts(examples), seed)


def _prompts(examples: Examples) -> int:
    return int(examples.prompt_numbers.max()) + 1


def _bootstrapped(method: str, rates: Callable[[Floats], tuple[float, float]], prompts: int, seed: int) -> Rates:
    """The two rates and their intervals, where `rates` takes how often each prompt counts (C,)."""
    rng = np.random.default_rng(seed)
    even = np.full(prompts, 1 / prompts)
    drawn = np.array([rates(rng.multinomial(prompts, even).astype(np.float64)) for _ in range(RESAMPLES)])
    return _rates(method, rates(np.ones(prompts)), drawn, prompts)


def _rates(method: str, values: tuple[float, float], drawn: Floats, prompts: int) -> Rates:
    down, up = (_estimate(value, drawn[:, side], prompts) for side, value in enumerate(values))
    return Rates(method, down, up)


def _estimate(value: float, drawn: Floats, prompts: int) -> Estimate:
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value):
        return Estimate(None, None, None, prompts)
    if len(known) < len(drawn) / 2:
        return Estimate(value, None, None, prompts)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), prompts)
