"""What to set, given what is known about how often thumbs are wrong: losses, weights, or nothing.

Advice follows from an interval, never from a point estimate alone. A loss is prescribed where the lower end of a rate
is above what matters, and nothing is to be set where both upper ends are below it; otherwise the rates cannot be known
from the table, and only a review can settle them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kto_lab.auditing.bounds import Bounds
from kto_lab.auditing.rates import TOO_WIDE, Rates
from kto_lab.errors import LabError
from kto_lab.losses import FlipRates
from kto_lab.losses.noise import clean_counts, effective_weights, inversion_rates, robust_weights
from kto_lab.losses.weighting import Balanced, Weights
from kto_lab.statistics import Estimate

# Rates up to here do not matter: in results/label_noise KTO, BCO and DPO lost next to nothing to 10 % of flips.
MATTERS = 0.1
# In this order: a review assumes least, and the bounds of the signals tell least.
FIRST_ASKED = ("reviewed", "raters", "noise_aware")
# The precision to which a review should tell each rate.
WITHIN = 0.05
# So much may noise change lambda_D' / lambda_U' against lambda_D / lambda_U before the weights are worth correcting:
# the range that the paper advises for the ratio (1 to 3/2) is wider.
BEARABLE = 1.1
# lambda_D n_D / (lambda_U n_U): the default of conf/weighting/balanced.yaml.
TARGET = 1.25


@dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Attributes:
        about: its subject.
        text: what to do and why.
        override: the words to paste after `kto-lab train`; "" where nothing is to be set.
    """

    about: str
    text: str
    override: str = ""


def advise(rates: Sequence[Rates], bounds: Bounds, desirable: int, undesirable: int) -> list[Advice]:
    """What to set, by the first of FIRST_ASKED that settles it.

    Args:
        rates: all that is known of the rates; one of them is of "noise_aware".
        bounds: what the signals leave open.
        desirable: thumbs up in the table.
        undesirable: thumbs down.
    """
    by_method = {found.method: found for found in rates}
    for found in (by_method[method] for method in FIRST_ASKED if method in by_method):
        if harmless(found):
            return [
                Advice(
                    "nothing to set",
                    f"Both rates are at most {MATTERS:.0%} ({_span(found)}): losses bear that. Review the top suspects "
                    "if the labels matter for more than training.",
                )
            ]
        if harmful(found):
            return _to_set(found, desirable, undesirable)
    return [_not_known(by_method, bounds, desirable, undesirable)]


def harmless(rates: Rates) -> bool:
    """Both rates are known to be below what matters."""
    return all(end.high is not None and end.high <= MATTERS for end in (rates.desirable, rates.undesirable))


def harmful(rates: Rates) -> bool:
    """One rate or both are known to be above what matters, and both are known closely enough to be set."""
    ends = (rates.desirable, rates.undesirable)
    close = all(end.low is not None and end.high is not None and end.high - end.low <= TOO_WIDE for end in ends)
    return close and rates.values is not None and max(end.low or 0.0 for end in ends) > MATTERS


def _not_known(by_method: dict[str, Rates], bounds: Bounds, desirable: int, undesirable: int) -> Advice:
    """What is open, why, and how many thumbs somebody has to look at."""
    found = by_method["noise_aware"]
    auc = bounds.auc
    seen = f"AUC {auc.value or 0.5:.2f}" + (f" [{auc.low:.2f}, {auc.high:.2f}]" if auc.low is not None else "")
    if auc.value is None or (auc.low if auc.low is not None else auc.value) <= 0.5:
        why = f"The signals do not predict the thumbs of other prompts ({seen}; 0.5 is a coin)."
    elif found.values is None:
        why = f"The signals hardly predict the thumbs of other prompts ({seen}; 0.5 is a coin)."
    else:
        why = (
            f"The signals predict the thumbs of other prompts ({seen}), and if some answers are good or bad beyond "
            f"doubt, {found.desirable.value:.1%} and {found.undesirable.value:.1%} are wrong; but thumbs that they do "
            "not predict may as well be right."
        )
    if bounds.trials:
        last = bounds.trials[-1]
        why += (
            f" Turning round a further {last.rate:.0%} of the thumbs moves the upper ends from {bounds.desirable:.0%} "
            f"and {bounds.undesirable:.0%} to {last.desirable:.0%} and {last.undesirable:.0%}."
        )
    spans = "; ".join(
        f"{ABOUT_EVIDENCE[method]}: {_span(by_method[method])}" for method in FIRST_ASKED if method in by_method
    )
    asked = review_size(found, desirable, undesirable)
    return Advice(
        "rates",
        f"How often thumbs are wrong cannot be known from this table ({spans}). {why} No loss is prescribed. A review "
        f"settles it: about {asked:,} thumbs drawn at random (at_random={asked}) give each rate to within "
        f"{WITHIN:.0%} (see kto-lab feedback review, and decisions here).",
    )


ABOUT_EVIDENCE = {"reviewed": "by the review", "raters": "by several thumbs on one answer", "noise_aware": "by bounds"}


def review_size(rates: Rates, desirable: int, undesirable: int) -> int:
    """How many random examples tell each rate to WITHIN, if it is at the upper end; at most all there are."""
    total = desirable + undesirable
    sizes = []
    for end, count in ((rates.desirable, desirable), (rates.undesirable, undesirable)):
        worst = min(end.high if end.high is not None else 0.5, 0.5)
        sizes.append(worst * (1 - worst) * (1.96 / WITHIN) ** 2 * total / count)
    return min(math.ceil(max(sizes) / 10) * 10, total)


def _to_set(rates: Rates, desirable: int, undesirable: int) -> list[Advice]:
    known = FlipRates(*(round(end.value or 0.0, 3) for end in (rates.desirable, rates.undesirable)))
    try:
        counts = clean_counts(desirable, undesirable, known)
    except LabError as error:
        return [Advice("rates", f"{error} Set nothing from them; review the page.")]
    return [
        _for_kto(known, Balanced(TARGET).weights(desirable, undesirable)),
        _robust(known),
        _weights(known, counts),
        _for_pairs(),
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


def _for_pairs() -> Advice:
    """A joined pair is swapped where both of its thumbs are wrong: rates of single thumbs do not say how often."""
    return Advice(
        "losses of pairs",
        "A joined pair is swapped where both of its thumbs are wrong, and how often that is depends on the answers of "
        "each prompt: with 20% of the thumbs wrong, 9.5% of the pairs of arithmetic are swapped and 4.4% of those of "
        "instruction_checks. So these rates give no loss.flip_rate for cdpo or rdpo. Use a loss of single thumbs.",
    )


def _span(rates: Rates) -> str:
    return f"thumbs down on good answers {span(rates.desirable)}, up on bad ones {span(rates.undesirable)}"


def span(estimate: Estimate) -> str:
    """A rate in per cent with its interval; the interval alone where no value is known."""
    if estimate.value is None:
        known = estimate.low is not None and estimate.high is not None
        return f"{estimate.low:.1%} to {estimate.high:.1%}" if known else "unknown"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"
