"""Signal: what other thumbs on the same answer say, weighed by how reliable each rater has been.

The model is that of Dawid and Skene 1979 ("Maximum Likelihood Estimation of Observer Error-Rates Using the EM
Algorithm", doi 10.2307/2346806) for two classes: an answer truly deserves a thumbs-up or not, and each rater gives the
wrong thumb to each class at rates of their own. A rater's rates are drawn towards those of all raters together, since
most raters of a product gave few thumbs. Where raters are not named, they are one rater who judged the answer several
times. Identical answers to one prompt are one answer.
"""

from dataclasses import dataclass

import numpy as np

from kto_lab.auditing.combined import sigmoid
from kto_lab.auditing.examples import Examples, Floats, Ints
from kto_lab.auditing.signals import Signal

# Thumbs that all raters together lend to each rater, in each class.
SHRINKAGE = 4.0
ITERATIONS = 200
TOLERANCE = 1e-6


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
        prior: share of items that truly deserve a thumbs-up.
        missed: (R,) P(thumb down | truly up) of each rater.
        false: (R,) P(thumb up | truly down).
        logits: (I,) log-odds that an item truly deserves a thumbs-up, of all its votes.
        evidence: (V,) what each vote adds to them.
    """

    prior: float
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
    each = weight[votes.item]
    ups = np.bincount(votes.item, votes.up, minlength=items)
    belief = (ups + 0.5) / (votes.thumbs + 1) if start is None else sigmoid(start)
    for _ in range(ITERATIONS):
        prior = float(np.clip((counted @ belief) / max(counted.sum(), 1e-9), 1e-3, 1 - 1e-3))
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
