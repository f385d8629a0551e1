"""How often thumbs are wrong: estimates of rho_D = P(thumb down | truly up) and rho_U = P(thumb up | truly down).

Three estimators:

- `noise_aware`: what the combination of all signals fits (see `combined`), near `raters` where there are those. The
  value supposes that the signals are sure somewhere; there is none where the fit itself is nowhere sure, or comes out
  otherwise on resampled prompts. The interval does not suppose it: it goes from 0 to the bound of `bounds`, since the
  same thumbs may be right for reasons that no signal sees. Both suppose that a class's thumbs are wrong alike wherever
  they are.
- `confident_learning`: the joint of given and true labels that cleanlab counts from the out-of-fold signal (Northcutt
  et al. 2021, "Confident Learning", arXiv 1911.00068). It takes the classifier's confident contradictions for wrong
  labels, so that it is too high where the classifier is weak. It has no interval: that error is the classifier's, and
  no resampling shows it.
- `raters`: from several thumbs on one answer, by Dawid and Skene's model, with a 95 % percentile interval from a
  bootstrap over prompts that is never narrower than Wilson's for as many thumbs. It supposes that the raters' errors
  are independent and that an answer has one truth.

results/feedback/audit measures how far each is off where the truth is known.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kto_lab.auditing.bounds import Bounds
from kto_lab.auditing.combined import Combined, sigmoid
from kto_lab.auditing.examples import Bools, Examples, Floats
from kto_lab.auditing.raters import LEAST_THUMBS, Reliability, Votes, dawid_skene, wilson
from kto_lab.auditing.signals import Signal
from kto_lab.statistics import LEVEL, Estimate

RESAMPLES = 100
# So many answers that tell wrong thumbs apart (see `raters`) are needed.
LEAST_ANSWERS = 50
# An interval wider than this says that the rate is not known.
TOO_WIDE = 0.3


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


def of_combined(combined: Combined, bounds: Bounds, examples: Examples) -> Rates:
    """The rates of the noise-aware fit, between 0 and the bounds."""
    prompts = _prompts(examples)
    low, high = np.quantile(combined.drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    fit = combined.fit
    down, up = (
        Estimate(min(value, bound) if sure and wide <= TOO_WIDE else None, 0.0, bound, prompts)
        for value, bound, sure, wide in zip(
            (fit.rho_desirable, fit.rho_undesirable),
            (bounds.desirable, bounds.undesirable),
            fit.sure,
            high - low,
            strict=True,
        )
    )
    return Rates("noise_aware", down, up)


def of_confident_learning(signal: Signal, examples: Examples) -> Rates:
    """The rates at which out-of-fold probabilities contradict the labels, as cleanlab counts them."""
    found = _joint_rates(signal.up, examples.labels)
    known = (value if np.isfinite(value) else None for value in found)
    return Rates("confident_learning", *(Estimate(value, None, None, _prompts(examples)) for value in known))


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
    prompt_of, prompts = examples.prompt_numbers, _prompts(examples)
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

    rng = np.random.default_rng(seed)
    even = np.full(prompts, 1 / prompts)
    drawn = np.array([rates(rng.multinomial(prompts, even).astype(np.float64)) for _ in range(RESAMPLES)])
    told = votes.thumbs * (votes.thumbs >= LEAST_THUMBS)
    good = sigmoid(found.logits)
    thumbs = (float(told @ good), float(told @ (1 - good)))
    down, up = (
        _estimate(value, drawn[:, side], thumbs[side], prompts) for side, value in enumerate(rates(np.ones(prompts)))
    )
    return Rates("raters", down, up)


def _prompts(examples: Examples) -> int:
    return int(examples.prompt_numbers.max()) + 1


def _estimate(value: float, drawn: Floats, thumbs: float, prompts: int) -> Estimate:
    """A rate with its interval: the hull of the bootstrap's and of Wilson's for so many thumbs of the class."""
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(known) < len(drawn) / 2 or thumbs < 1:
        return Estimate(None, None, None, prompts)
    ends = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    least = wilson(value, thumbs)
    return Estimate(value, min(float(ends[0]), least[0]), max(float(ends[1]), least[1]), prompts)
