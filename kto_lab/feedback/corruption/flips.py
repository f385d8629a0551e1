"""Label noise at a stated rate: flips of single thumbs, uniform or likelier for some.

A flip turns `desirable` round as it is now. The uniform flips rank the examples by a hash of the seed and their
identity and take the first ones; the others are weighted draws without replacement from the same hashes (Efraimidis &
Spirakis 2006, doi 10.1016/j.ipl.2005.11.003: the order of u^(1/w) does not depend on how many are drawn). So flips nest
across rates for one seed. Across strengths, boundaries and widths they do not.
"""

from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from scipy import stats

from kto_lab.feedback.corruption.changes import Corrupted, labels_of, relabelled, values_of
from kto_lab.feedback.corruption.draws import check_number, check_rate, check_seed, lowest, scores_of, uniforms

# What is hashed with the seed. One word for all of this module, so that kinds of noise compare example by example.
PURPOSE = "label noise"
# Two of these with one seed would draw the same examples.
DRAWN_ALIKE = ("label_noise", "label_noise_by_class", "label_noise_by_length", "label_noise_near_boundary")


def label_noise(table: Dataset, *, rate: float, seed: int) -> Corrupted:
    """Symmetric noise: of each class exactly round(rate * n) of its n labels are flipped.

    Args:
        table: rows of the training split.
        rate: share of each class, in [0, 1].
        seed: decides which.

    Raises:
        LabError: a key is out of range, or a class is left empty.
    """
    check_rate("rate", rate)
    check_seed(seed)
    return _flip_classes(table, rate, rate, seed, "label_noise", {"rate": rate, "seed": seed})


def label_noise_by_class(table: Dataset, *, rate_desirable: float, rate_undesirable: float, seed: int) -> Corrupted:
    """Class-conditional noise: exactly round(rate * n) of the n labels of each class are flipped.

    Args:
        table: rows of the training split.
        rate_desirable: share of the desirable labels that become undesirable, in [0, 1].
        rate_undesirable: share of the undesirable labels that become desirable, in [0, 1].
        seed: decides which.

    Raises:
        LabError: a key is out of range, or a class is left empty.
    """
    check_rate("rate_desirable", rate_desirable)
    check_rate("rate_undesirable", rate_undesirable)
    check_seed(seed)
    parameters = {"rate_desirable": rate_desirable, "rate_undesirable": rate_undesirable, "seed": seed}
    return _flip_classes(table, rate_desirable, rate_undesirable, seed, "label_noise_by_class", parameters)


def label_noise_by_length(table: Dataset, *, rate: float, strength: float, seed: int) -> Corrupted:
    """Raters like long completions: exactly round(rate * n) flips, long undesirable and short desirable ones likelier.

    The weight of an example is exp(strength * a) when it is undesirable and exp(-strength * a) when it is desirable. a
    is the rank of the completion's length in characters among all rows, from -1 (shortest) to 1 (longest); equal
    lengths share their mean rank.

    Args:
        table: rows of the training split.
        rate: share of all labels, in [0, 1].
        strength: at least 0; 0 draws uniformly, and the longest undesirable example weighs exp(2 * strength) times the
            shortest.
        seed: decides which.

    Raises:
        LabError: a key is out of range, or a class is left empty.
    """
    check_rate("rate", rate)
    check_number("strength", strength, lambda value: value >= 0, "a number of at least 0")
    check_seed(seed)
    ranks = stats.rankdata([len(completion) for completion in values_of(table, "completion")])
    centred = (2 * ranks - len(table) - 1) / max(1, len(table) - 1)
    log_weights = strength * np.where(labels_of(table), -centred, centred)
    parameters = {"rate": rate, "strength": strength, "seed": seed}
    return _flip_weighted(table, rate, log_weights, seed, "label_noise_by_length", parameters)


def label_noise_near_boundary(table: Dataset, *, rate: float, boundary: float, width: float, seed: int) -> Corrupted:
    """Close calls go wrong: exactly round(rate * n) flips, with weight exp(-|score - boundary| / width).

    Args:
        table: rows of the training split, with a score each.
        rate: share of all labels, in [0, 1].
        boundary: the score that separates the classes, in the score's units.
        width: above 0, in the score's units: so much further from the boundary, an example weighs 1/e.
        seed: decides which.

    Raises:
        LabError: a key is out of range, an example has no score, or a class is left empty.
    """
    check_rate("rate", rate)
    check_number("boundary", boundary, lambda value: True, "a number")
    check_number("width", width, lambda value: value > 0, "a number above 0")
    check_seed(seed)
    log_weights = -np.abs(scores_of(table, "label_noise_near_boundary") - boundary) / width
    parameters = {"rate": rate, "boundary": boundary, "width": width, "seed": seed}
    return _flip_weighted(table, rate, log_weights, seed, "label_noise_near_boundary", parameters)


def _flip_classes(
    table: Dataset, rate_desirable: float, rate_undesirable: float, seed: int, name: str, parameters: dict[str, Any]
) -> Corrupted:
    """Uniform flips within each class."""
    labels, draws = labels_of(table), uniforms(PURPOSE, seed, table)
    flipped = labels.copy()
    for label, rate in ((True, rate_desirable), (False, rate_undesirable)):
        rows = np.flatnonzero(labels == label)
        flipped[rows[lowest(draws[rows], round(rate * len(rows)))]] = not label
    return relabelled(table, flipped, name, parameters)


def _flip_weighted(
    table: Dataset, rate: float, log_weights: NDArray[np.float64], seed: int, name: str, parameters: dict[str, Any]
) -> Corrupted:
    """Flips over both classes, drawn without replacement with weights exp(log_weights), shape (examples,)."""
    # u^(1/w) falls as -log(u)/w rises. With 1 - u for u, equal weights give the order of the uniform flips; the
    # logarithm keeps extreme weights finite.
    order = np.log(-np.log1p(-uniforms(PURPOSE, seed, table))) - log_weights
    labels = labels_of(table)
    chosen = lowest(order, round(rate * len(table)))
    labels[chosen] = ~labels[chosen]
    return relabelled(table, labels, name, parameters)
