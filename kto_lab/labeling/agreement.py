"""How far raters agree beyond chance: Cohen's kappa, Krippendorff's alpha, and the table behind them.

A rater is a labeler, a person, or a checker that is taken as the truth. All statistics are functions of sums over
prompts, and their intervals come from a percentile bootstrap over prompts, since answers to one prompt are alike. With
fewer than LEAST_PROMPTS prompts such an interval would be too narrow and is left out; a share of 0 or 1 keeps Wilson's.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kto_lab.statistics import Estimate, cluster_interval, cluster_sums, share_interval

Floats: TypeAlias = NDArray[np.float64]
# Seeds every bootstrap here, so that the same labels have the same intervals.
SEED = 0
# A bootstrap over fewer prompts gives intervals that are too narrow.
LEAST_PROMPTS = 10


@dataclass(frozen=True)
class Confusion:
    """Thumbs of a labeler against the truth.

    Attributes:
        up_up: labelled up, truly up.
        up_down: labelled up, truly down.
        down_up: labelled down, truly up.
        down_down: labelled down, truly down.
    """

    up_up: int
    up_down: int
    down_up: int
    down_down: int


@dataclass(frozen=True)
class Agreement:
    """How far a labeler agrees with the truth, over the answers where both have a thumb.

    Attributes:
        answers: how many those are.
        confusion: counts of the four cases.
        accuracy: share with the same thumb.
        kappa: Cohen's kappa.
        found_up: share of truly desirable answers that are labelled so (sensitivity).
        found_down: share of truly undesirable answers that are labelled so (specificity).
    """

    answers: int
    confusion: Confusion
    accuracy: Estimate
    kappa: Estimate
    found_up: Estimate
    found_down: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for a report."""
        return asdict(self)


def agreement(
    labels: Sequence[bool | None], truth: Sequence[bool | None], prompts: Sequence[Hashable]
) -> Agreement | None:
    """A labeler against the truth; see `Agreement`. None where no answer has both thumbs.

    Args:
        labels: (N,) the labeler's thumbs, None where it gave none.
        truth: (N,) the true ones, None where they are not known.
        prompts: (N,) the prompt of each answer.
    """
    both = [
        (bool(label), bool(true), prompt)
        for label, true, prompt in zip(labels, truth, prompts, strict=True)
        if label is not None and true is not None
    ]
    if not both:
        return None
    cases = np.array([[a and b, a and not b, b and not a, not (a or b)] for a, b, _ in both], dtype=float)
    # (C, 4) per prompt: up up, up down, down up, down down.
    sums = cluster_sums(cases, [prompt for *_, prompt in both])
    right = sums[:, 0] + sums[:, 3]
    return Agreement(
        answers=len(both),
        confusion=Confusion(*(int(count) for count in sums.sum(axis=0))),
        accuracy=share_of(right, sums.sum(axis=1)),
        kappa=of_enough(cluster_interval(sums, _kappa, seed=SEED)),
        found_up=share_of(sums[:, 0], sums[:, 0] + sums[:, 2]),
        found_down=share_of(sums[:, 3], sums[:, 1] + sums[:, 3]),
    )


def share_of(hits: Floats, counts: Floats) -> Estimate:
    """Share of hits in counts, both (C,) sums per prompt."""
    found = share_interval(hits, counts, seed=SEED)
    return found if found.value in (0.0, 1.0) else of_enough(found)


def of_enough(found: Estimate) -> Estimate:
    """The estimate, without its interval where that would be a bootstrap over too few prompts."""
    return found if found.n >= LEAST_PROMPTS else Estimate(found.value, None, None, found.n)


def _kappa(totals: Floats) -> Floats:
    """Cohen's kappa of tables (B, 4): observed agreement above that of independent raters (Cohen 1960).

    Undefined where both raters only ever give the same single rating.
    """
    share = totals / totals.sum(axis=1, keepdims=True)
    up, truly_up = share[:, 0] + share[:, 1], share[:, 0] + share[:, 2]
    by_chance = up * truly_up + (1 - up) * (1 - truly_up)
    kappa: Floats = (share[:, 0] + share[:, 3] - by_chance) / (1 - by_chance)
    return kappa


def krippendorff_alpha(ratings: Sequence[Sequence[Hashable | None]], prompts: Sequence[Hashable]) -> Estimate:
    """Krippendorff's alpha for nominal data, 1 - observed disagreement / that by chance (Krippendorff 2011).

    Args:
        ratings: (N, R) the ratings of N answers by R raters, None where there is none; of any type that can be compared
            for equality.
        prompts: (N,) the prompt of each answer.

    Returns:
        Alpha over the answers with two ratings or more. None where there is no such answer, or where all ratings are
        the same.
    """
    said = [[value for value in row if value is not None] for row in ratings]
    values = {value: place for place, value in enumerate(dict.fromkeys(value for row in said for value in row))}
    rows, where = [], []
    for row, prompt in zip(said, prompts, strict=True):
        if len(row) >= 2:
            counts = np.bincount([values[value] for value in row], minlength=len(values)).astype(float)
            # Ordered pairs of ratings that differ, each answer counting as many ratings as it has.
            apart = (len(row) ** 2 - (counts**2).sum()) / (len(row) - 1)
            rows.append([apart, *counts])
            where.append(prompt)
    if not rows:
        return Estimate(None, None, None, 0)
    return of_enough(cluster_interval(cluster_sums(np.array(rows), where), _alpha, seed=SEED))


def _alpha(totals: Floats) -> Floats:
    """Alpha of totals (B, 1 + K): disagreeing pairs, then the count of each value."""
    counts = totals[:, 1:]
    n = counts.sum(axis=1)
    by_chance = (n**2 - (counts**2).sum(axis=1)) / (n - 1)
    alpha: Floats = 1 - totals[:, 0] / by_chance
    return alpha


def pairwise_kappa(
    raters: Mapping[str, Sequence[bool | None]], prompts: Sequence[Hashable]
) -> dict[tuple[str, str], Estimate]:
    """Cohen's kappa of every pair of raters, over the answers where both have a thumb."""
    names = list(raters)
    return {
        (one, other): found.kappa
        for place, one in enumerate(names)
        for other in names[place + 1 :]
        if (found := agreement(raters[one], raters[other], prompts)) is not None
    }
