"""Label noise from raters: the consensus is replaced by one rater, by those who dissent most, or by a simulated one.

Ratings and scores are signed: above 0 (or above a boundary) is a thumbs-up. A rating of 0 is no thumb.
"""

import math

import numpy as np
from datasets import Dataset
from scipy import stats

from kto_lab.errors import LabError
from kto_lab.feedback.corruption.changes import Corrupted, labels_of, relabelled, values_of
from kto_lab.feedback.corruption.draws import (
    check_number,
    check_rate,
    check_seed,
    check_whole,
    lowest,
    scores_of,
    uniform,
    uniforms,
)
from kto_lab.feedback.table import ratings_of


def label_noise_one_rater(table: Dataset, *, share: float, seed: int) -> Corrupted:
    """Replace the label of some examples by that of one rater, drawn at random among those who gave a thumb.

    Of n examples exactly round(share * n) get a single rater's label, which often is the one that they had; those of a
    smaller share are among those of a larger one, and keep their rater. Where all ratings are 0 the label stays.

    Args:
        table: rows of the training split, with all ratings of each.
        share: share of the examples, in [0, 1].
        seed: decides which examples, and which rater.

    Raises:
        LabError: a key is out of range, an example has no ratings, or a class is left empty.
    """
    check_rate("share", share)
    check_seed(seed)
    ratings = _known_ratings(table, "label_noise_one_rater")
    labels, identities = labels_of(table), values_of(table, "example_id")
    chosen = lowest(uniforms("one rater's examples", seed, table), round(share * len(table)))
    for row in chosen:
        thumbs = [rating for rating in ratings[row] if rating]
        if thumbs:
            labels[row] = thumbs[int(uniform("one rater", seed, identities[row]) * len(thumbs))] > 0
    return relabelled(table, labels, "label_noise_one_rater", {"share": share, "seed": seed})


def label_noise_disagreeing_raters(table: Dataset, *, raters: int) -> Corrupted:
    """Replace each label by the sign of the sum of the k ratings that disagree most with the consensus.

    The consensus is `desirable_clean`, and the ratings furthest on its other side disagree most. Where the sum is 0 the
    consensus stands. Where there are no more than k ratings all of them count. The worst case of k raters: nothing is
    drawn, so there is no seed, and flips nest as k falls.

    Args:
        table: rows of the training split, with all ratings of each.
        raters: k, at least 1.

    Raises:
        LabError: a key is out of range, an example has no ratings, or a class is left empty.
    """
    check_whole("raters", raters, 1)
    consensus = labels_of(table, "desirable_clean")
    # Each rating's agreement with the consensus: negative for those on the other side.
    agreement = [
        sorted(rating if up else -rating for rating in given)
        for given, up in zip(_known_ratings(table, "label_noise_disagreeing_raters"), consensus, strict=True)
    ]
    against = np.array([math.fsum(values[:raters]) < 0 for values in agreement], dtype=bool)
    return relabelled(table, consensus != against, "label_noise_disagreeing_raters", {"raters": raters})


def label_noise_simulated_rater(table: Dataset, *, reliability: float, boundary: float, seed: int) -> Corrupted:
    """Flip the labels that a rater of stated reliability would get wrong (classical test theory).

    An observed rating is the true score plus an error, and its reliability is the share of its variance that is the
    true score's (Lord & Novick 1968, Statistical Theories of Mental Test Scores, chapter 3). So the simulated rating is
    score + e with e normal, of mean 0 and variance var(scores) * (1 - reliability) / reliability; the variance is over
    the rows that are given. A label is flipped where the rating falls on the other side of the boundary than the
    score. The standard normal draw of an example is fixed, so flips nest as reliability falls.

    Args:
        table: rows of the training split, with a score each that lies on the side of its `desirable_clean`.
        reliability: above 0, at most 1 (no error).
        boundary: the score that separates the classes, in the score's units; no score lies on it.
        seed: of the errors.

    Raises:
        LabError: a key is out of range, a score is missing or on the wrong side, all are equal, or a class is left
            empty.
    """
    check_number("reliability", reliability, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
    check_number("boundary", boundary, lambda value: True, "a number")
    check_seed(seed)
    scores = scores_of(table, "label_noise_simulated_rater")
    if scores.min() == scores.max():
        raise LabError(
            "label_noise_simulated_rater: all scores are equal, so reliability is undefined. Use another corruption."
        )
    side = np.where(labels_of(table, "desirable_clean"), 1.0, -1.0)
    if wrong := int((side * (scores - boundary) <= 0).sum()):
        raise LabError(
            f"label_noise_simulated_rater: {wrong} of {len(table)} scores lie on corruption.boundary={boundary}, or on "
            "the other side of it than their clean label. Set a boundary between the scores of the two classes, and "
            "use scores of the consensus (feedback=movie_ratings feedback.label=consensus)."
        )
    deviation = math.sqrt(float(scores.var()) * (1 - reliability) / reliability)
    errors = deviation * stats.norm.ppf(uniforms("simulated rater", seed, table))
    labels = labels_of(table) != (side * (scores - boundary + errors) < 0)
    parameters = {"reliability": reliability, "boundary": boundary, "seed": seed}
    return relabelled(table, labels, "label_noise_simulated_rater", parameters)


def _known_ratings(table: Dataset, name: str) -> list[list[float]]:
    """The ratings of each example.

    Raises:
        LabError: an example has none.
    """
    ratings = [given for given in ratings_of(table) if given]
    if missing := len(table) - len(ratings):
        raise LabError(
            f"{name} needs the ratings of all raters, and {missing} of {len(table)} examples have none. Use "
            "feedback=movie_ratings feedback.label=consensus, or another corruption."
        )
    return ratings
