"""Signal: the other thumbs on the same answer, weighted by how reliable each rater has been.

The model is that of Dawid and Skene 1979 ("Maximum Likelihood Estimation of Observer Error-Rates Using the EM
Algorithm", doi 10.2307/2346806) for two classes: an answer truly deserves a thumbs-up or not, and each rater gives the
wrong thumb to each class at rates of their own. A rater's rates are drawn towards those of all raters together, since
most raters of a product gave few thumbs. Where raters are not named, they are one rater who judged the answer several
times. Identical answers to one prompt are one answer.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kto_lab.auditing.combined import sigmoid
from kto_lab.auditing.examples import Bools, Examples, Floats, Ints
from kto_lab.auditing.signals import Signal
from kto_lab.statistics import LEVEL, Estimate

# Strength of the prior on a rater's error rates, in thumbs per class; its mean is the rate of all raters together.
SHRINKAGE = 4.0
# Strength of the prior on the share of good answers among those with as many thumbs, in answers.
PRIOR_ANSWERS = 10.0
ITERATIONS = 200
TOLERANCE = 1e-6
# Answers with so many thumbs or more tell wrong thumbs apart.
LEAST_THUMBS = 3
# A rater needs so many thumbs on such answers in each class before a rate is given.
LEAST_COMPARED = 5
# Answers with so many thumbs or more share one prior.
MOST_PRIORS = 6


@dataclass(frozen=True)
class Votes:
    """V thumbs on I items (answers).

    Attributes:
        item: (V,) which item, from 0.
        rater: (V,) who, from 0.
        up: (V,) 1 for a thumbs-up, 0 for a thumbs-down.
        own: (N,) for each example of the table its own vote, -1 where it has none.
        item_of: (N,) the item of each example.
        names: the raters; "" is whoever is not named.
        thumbs: (I,) how many each item has.
    """

    item: Ints
    rater: Ints
    up: Floats
    own: Ints
    item_of: Ints
    names: list[str]
    thumbs: Ints


@dataclass(frozen=True)
class Reliability:
    """What was found of the raters.

    Attributes:
        prior: (I,) share of items that truly deserve a thumbs-up, among those with as many thumbs.
        missed: (R,) P(thumb down | truly up) of each rater.
        false: (R,) P(thumb up | truly down).
        logits: (I,) log-odds that an item truly deserves a thumbs-up, of all its votes.
        evidence: (V,) what each vote adds to them.
    """

    prior: Floats
    missed: Floats
    false: Floats
    logits: Floats
    evidence: Floats


def votes_of(examples: Examples) -> Votes:
    """The thumbs of a table: its rows, or the ratings behind them where a row has all of them (0 is no thumb)."""
    items: dict[tuple[str, str], int] = {}
    keys = zip(examples.prompt_ids, examples.completions, strict=True)
    item_of = np.array([items.setdefault(key, len(items)) for key in keys], dtype=np.int64)
    raters: dict[str, int] = {}
    rows: list[tuple[int, int, float]] = []
    own = np.full(len(examples), -1, dtype=np.int64)
    rated: set[int] = set()
    for row, (item, label, rater, ratings) in enumerate(
        zip(item_of.tolist(), examples.labels.tolist(), examples.raters, examples.ratings, strict=True)
    ):
        if ratings is None:
            own[row] = len(rows)
            rows.append((item, raters.setdefault(rater or "", len(raters)), float(label)))
        elif item not in rated:
            rated.add(item)
            # The places of a list are no people, as far as is known.
            rows += [(item, raters.setdefault("", len(raters)), float(value > 0)) for value in ratings if value]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 3)
    item = columns[:, 0].astype(np.int64)
    thumbs = np.bincount(item, minlength=len(items))
    return Votes(item, columns[:, 1].astype(np.int64), columns[:, 2], own, item_of, list(raters), thumbs)


def dawid_skene(votes: Votes, weights: Floats | None = None, start: Floats | None = None) -> Reliability:
    """The raters' error rates and the items' classes that make the votes likeliest, by expectation-maximisation.

    Args:
        votes: V thumbs on I items.
        weights: (I,) how often each item counts (for a bootstrap); None for once.
        start: (I,) log-odds to start from; None for the share of thumbs-up of each item, so that the class that has
            more of them is "up".
    """
    items, raters = len(votes.thumbs), len(votes.names)
    weight = np.ones(items) if weights is None else weights
    counted = weight * (votes.thumbs > 0)
    kind = np.minimum(votes.thumbs, MOST_PRIORS)
    each = weight[votes.item]
    ups = np.bincount(votes.item, votes.up, minlength=items)
    belief = (ups + 0.5) / (votes.thumbs + 1) if start is None else sigmoid(start)
    for _ in range(ITERATIONS):
        good, of_kind = np.bincount(kind, counted * belief), np.bincount(kind, counted)
        of_all = good.sum() / max(of_kind.sum(), 1e-9)
        prior = np.clip((good + PRIOR_ANSWERS * of_all) / (of_kind + PRIOR_ANSWERS), 1e-3, 1 - 1e-3)[kind]
        true_up = belief[votes.item]
        missed = _rates(each * true_up * (1 - votes.up), each * true_up, votes.rater, raters)
        false = _rates(each * (1 - true_up) * votes.up, each * (1 - true_up), votes.rater, raters)
        evidence = np.where(
            votes.up > 0,
            np.log((1 - missed) / false)[votes.rater],
            np.log(missed / (1 - false))[votes.rater],
        )
        logits = np.log(prior / (1 - prior)) + np.bincount(votes.item, evidence, minlength=items)
        before, belief = belief, sigmoid(logits)
        if np.abs(belief - before).max() < TOLERANCE:
            break
    return Reliability(prior, missed, false, logits, evidence)


@dataclass(frozen=True)
class Record:
    """What is known of one rater.

    Attributes:
        name: "" is whoever is not named.
        thumbs: how many they gave.
        shared: how many of them are on answers that another rater judged, too.
        compared: how many of those are on answers with LEAST_THUMBS thumbs or more.
        missed: P(thumb down | truly up), None where too few thumbs were compared; `n` is how many of the class were.
        false: P(thumb up | truly down); likewise.
    """

    name: str
    thumbs: int
    shared: int
    compared: int
    missed: Estimate
    false: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def records(votes: Votes, found: Reliability) -> list[Record]:
    """What is known of each rater, those who gave most first."""
    raters = len(votes.names)
    given = np.bincount(votes.rater, minlength=raters)
    shared = _with_others(votes)
    compared = shared & (votes.thumbs[votes.item] >= LEAST_THUMBS)
    counts = [np.bincount(votes.rater, which, minlength=raters).astype(int) for which in (shared, compared)]
    up = sigmoid(found.logits)[votes.item] * compared
    in_class = [np.bincount(votes.rater, part, minlength=raters) for part in (up, compared - up)]
    return [
        Record(
            votes.names[place],
            int(given[place]),
            int(counts[0][place]),
            int(counts[1][place]),
            _told(float(found.missed[place]), float(in_class[0][place])),
            _told(float(found.false[place]), float(in_class[1][place])),
        )
        for place in np.argsort(-given, kind="stable")
    ]


def _with_others(votes: Votes) -> Bools:
    """(V,) another rater judged the item; those who are not named may be several people, and count as such."""
    unnamed = np.array([not name for name in votes.names], dtype=bool)
    pairs = votes.item * len(votes.names) + votes.rater
    _, place, times = np.unique(pairs, return_inverse=True, return_counts=True)
    own = np.where(unnamed[votes.rater], 1, times[place])
    return votes.thumbs[votes.item] > own


def _told(rate: float, thumbs: float) -> Estimate:
    """A rater's rate in one class, with Wilson's interval for so many thumbs."""
    if thumbs < LEAST_COMPARED:
        return Estimate(None, None, None, int(thumbs))
    return Estimate(rate, *wilson(rate, thumbs), int(thumbs))


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's score interval of a share that was estimated as well as from n independent trials."""
    from scipy import special

    z = float(special.ndtri((1 + LEVEL) / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(float(middle - half), 0.0), min(float(middle + half), 1.0)


def _rates(wrong: Floats, all_of_class: Floats, rater: Ints, raters: int) -> Floats:
    """(R,) error rates in one class, drawn towards the rate of all."""
    pooled = (wrong.sum() + 1) / (all_of_class.sum() + 2)
    numerator = np.bincount(rater, wrong, minlength=raters) + SHRINKAGE * pooled
    denominator = np.bincount(rater, all_of_class, minlength=raters) + SHRINKAGE
    return np.clip(numerator / denominator, 1e-3, 1 - 1e-3)


def raters(examples: Examples) -> tuple[Signal, Votes, Reliability]:
    """What the other thumbs on each answer say, silent where there is none; with the votes and the raters' rates.

    Of ratings behind a label all count: whether the label is one of them is not known.
    """
    votes = votes_of(examples)
    found = dawid_skene(votes)
    has_own = votes.own >= 0
    logits = found.logits[votes.item_of]
    logits[has_own] -= found.evidence[votes.own[has_own]]
    known = votes.thumbs[votes.item_of] - has_own > 0
    return Signal("raters", np.where(known, sigmoid(logits), 0.5), known), votes, found
