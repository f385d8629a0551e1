"""What to set, given how often thumbs are wrong: losses, weights, and when to leave all as it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kto_lab.auditing.rates import Rates
from kto_lab.errors import LabError
from kto_lab.evaluation.statistics import Estimate
from kto_lab.losses import FlipRates
from kto_lab.losses.noise import clean_counts, effective_weights, inversion_rates, robust_weights
from kto_lab.losses.weighting import Balanced, Weights

# Below it nothing is to be changed: in results/label_noise KTO, BCO and DPO lost next to nothing to 10 % of flips, and
# half of that leaves room for the error of an estimate.
NOTHING_BELOW = 0.05
# An interval wider than this says that the signals could not tell the rates.
TOO_WIDE = 0.3
# So much may noise change lambda_D' / lambda_U' against lambda_D / lambda_U before the weights are worth correcting:
# the range that the paper advises for the ratio (1 to 3/2) is wider.
BEARABLE = 1.1
# lambda_D n_D / (lambda_U n_U): the default of conf/weighting/balanced.yaml.
TARGET = 1.25


@dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Attributes:
        about: what it is for.
        text: what to do and why.
        override: the words to paste after `kto-lab train`; "" where nothing is to be set.
    """

    about: str
    text: str
    override: str = ""


def surest(rates: Sequence[Rates]) -> Rates:
    """The estimate to act on: of the fit to all signals and a review of random examples, the one known more closely."""
    return min((found for found in rates if found.method in ("noise_aware", "reviewed")), key=_width)


def _width(rates: Rates) -> float:
    """The wider of the two intervals; infinite where one is missing."""
    ends = (rates.desirable, rates.undesirable)
    return max(end.high - end.low if end.low is not None and end.high is not None else math.inf for end in ends)


def advise(rates: Rates, desirable: int, undesirable: int) -> list[Advice]:
    """What to set for these rates, where a table has so many thumbs up and down."""
    if _width(rates) > TOO_WIDE:
        return [
            Advice(
                "rates",
                f"The signals cannot tell how often thumbs are wrong: {_span(rates)}. Set nothing from this; review "
                "the page, whose random examples give rates without a model (kto-lab feedback review).",
            )
        ]
    known = FlipRates(*(round(end.value or 0.0, 3) for end in (rates.desirable, rates.undesirable)))
    if max(known.desirable, known.undesirable) < NOTHING_BELOW:
        return [
            Advice(
                "nothing to set",
                f"Both rates are below {NOTHING_BELOW:.0%} ({_span(rates)}): losses bear that. Review the top suspects "
                "if the labels matter for more than training.",
            )
        ]
    try:
        counts = clean_counts(desirable, undesirable, known)
    except LabError as error:
        return [Advice("rates", f"{error} Set nothing from them; review the page.")]
    return [
        _for_kto(known, Balanced(TARGET).weights(desirable, undesirable)),
        _robust(known),
        _weights(known, counts),
        _for_pairs(known, counts, desirable, undesirable),
    ]


def _for_kto(rates: FlipRates, weights: Weights) -> Advice:
    left = effective_weights(weights, rates)
    limits = inversion_rates(weights)
    if min(left.desirable, left.undesirable) <= 0:
        return Advice(
            "loss=kto",
            f"As it is, the noise would push a class the wrong way: the weights bear {limits[0]:.1%} of truly "
            f"desirable and {limits[1]:.1%} of truly undesirable thumbs wrong. Use what follows.",
        )
    change = (left.desirable / left.undesirable) / (weights.desirable / weights.undesirable)
    kept = f"noise leaves {left.desirable / weights.desirable:.0%} and {left.undesirable / weights.undesirable:.0%}"
    kept += " of the pull on truly desirable and undesirable examples"
    if 1 / BEARABLE <= change <= BEARABLE:
        text = f"Nothing has to be set: {kept}, so their ratio stays. More steps make up for the strength."
    else:
        text = f"Correct it: {kept}, which is a ratio of the weights {change:.2f} times what is set."
    return Advice("loss=kto", text)


def _robust(rates: FlipRates) -> Advice:
    return Advice(
        "loss=kto_robust",
        "Unbiased at these rates, for every value function; its weights are those of the true classes.",
        f"loss=kto_robust loss.flip_rates.desirable={rates.desirable:g} loss.flip_rates.undesirable="
        f"{rates.undesirable:g}",
    )


def _weights(rates: FlipRates, counts: tuple[float, float]) -> Advice:
    seen = robust_weights(Balanced(TARGET).weights(*counts), rates)
    least = min(seen.desirable, seen.undesirable)
    return Advice(
        "weighting, for loss=kto and its kin",
        "The same gradient from weights alone, with the logistic value function, but for its size.",
        f"weighting@loss.weighting=fixed loss.weighting.lambda_desirable={seen.desirable / least:.4g} "
        f"loss.weighting.lambda_undesirable={seen.undesirable / least:.4g}",
    )


def _for_pairs(rates: FlipRates, counts: tuple[float, float], desirable: int, undesirable: int) -> Advice:
    """A pair is the wrong way round if both thumbs are wrong, and no better than a toss if one is."""
    wrong_up = rates.undesirable * counts[1] / desirable
    wrong_down = rates.desirable * counts[0] / undesirable
    flip_rate = min((wrong_up + wrong_down) / 2, 0.49)
    return Advice(
        "losses of pairs",
        f"{wrong_up:.1%} of the thumbs up and {wrong_down:.1%} of the thumbs down are wrong; of pairs half of their "
        "sum counts as swapped. loss=rdpo takes the same key; in results/label_noise it overshot.",
        f"loss=cdpo loss.flip_rate={flip_rate:.3g}",
    )


def _span(rates: Rates) -> str:
    return f"thumbs down on good answers {span(rates.desirable)}, up on bad ones {span(rates.undesirable)}"


def span(estimate: Estimate) -> str:
    """A rate in per cent with its interval."""
    if estimate.value is None:
        return "unknown"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"
