"""How often thumbs can be wrong at most, by what the signals make of the thumbs.

Let rho_D = P(thumb down | truly up) and rho_U = P(thumb up | truly down). If a class's thumbs are wrong alike wherever
they are, then in every group of examples that is formed without their own thumbs

    P(thumb up | group) = rho_U + (1 - rho_D - rho_U) P(truly up | group)  >=  rho_U    (rho_D + rho_U < 1)

so that a group with few thumbs up bounds rho_U, and one with few thumbs down rho_D (Scott, Blanchard and Handy 2013,
"Classification with Asymmetric Label Noise", arXiv 1303.1208). The groups are the ends of a ranking by a judge: a
logistic regression on the signals that was fitted without the example's fold. A judge that hardly predicts the thumbs
finds no such group, and the bound is wide.

There is no such bound from below. Thumbs that no signal predicts may be wrong, or right for a reason that no signal
sees; the thumbs alone are the same. So the lower end is 0, and only several thumbs on one answer or a review say more.

Further flips that are put in on purpose (`trial`) hold no information on the flips that are there already: they are a
function of the thumbs that were seen. They show whether a bound holds on this table, since of thumbs with a further
share r turned round at least r are wrong; a bound that has missed that is widened by as much. And they show how far the
bound answers at all: where it hardly moves, the rates cannot be known from the table.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kto_lab.auditing.combined import features_of
from kto_lab.auditing.examples import Bools, Examples, Floats, Ints
from kto_lab.auditing.signals import Signal
from kto_lab.feedback.corruption.draws import uniform
from kto_lab.statistics import LEVEL, Estimate, auc_interval

# The groups: so much of the table at either end of the judge's ranking.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
# Further shares of both classes that are turned round, each within the next.
TRIALS = (0.1, 0.2, 0.3)


@dataclass(frozen=True)
class Trial:
    """The bounds after further flips.

    Attributes:
        rate: the share of each class's thumbs that was turned round, on top of what is wrong already.
        auc: of the judge, see `Bounds`.
        desirable: the upper end of rho_D.
        undesirable: the upper end of rho_U.
    """

    rate: float
    auc: float | None
    desirable: float
    undesirable: float


@dataclass(frozen=True)
class Bounds:
    """What the thumbs leave open.

    Attributes:
        auc: how well the judge tells thumbs up from thumbs down of prompts that it was not fitted to.
        desirable: the upper end of rho_D, one-sided at LEVEL.
        undesirable: the upper end of rho_U, likewise.
        trials: the same after further flips, in the order of TRIALS.
    """

    auc: Estimate
    desirable: float
    undesirable: float
    trials: list[Trial] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def bounds_of(
    read: Callable[[Bools], Sequence[Signal]], examples: Examples, folds: Ints, signals: Sequence[Signal], *, seed: int
) -> Bounds:
    """The upper ends of both rates, tried by further flips on the same table.

    Args:
        read: what the signals say where the labels (N,) are others.
        examples: N examples.
        folds: (N,) see `make_folds`.
        signals: what they say of the labels as they are; at least one.
        seed: of the further flips and of the bootstrap of the AUC.
    """
    labels = examples.labels
    score = judge(signals, labels, folds)
    ends = upper_ends(score, labels, examples.prompt_numbers)
    draws = np.array([uniform("audit trial", seed, identity) for identity in examples.example_ids])
    trials = [_trial(read, examples, folds, draws, rate) for rate in TRIALS]
    down, up = (
        min(end + max(0.0, *(one.rate - tried for one, tried in zip(trials, of_trials, strict=True))), 1.0)
        for end, of_trials in zip(
            ends, ([one.desirable for one in trials], [one.undesirable for one in trials]), strict=True
        )
    )
    return Bounds(auc_interval(score, labels, examples.prompt_ids, seed=seed), down, up, trials)


def _trial(
    read: Callable[[Bools], Sequence[Signal]], examples: Examples, folds: Ints, draws: Floats, rate: float
) -> Trial:
    from sklearn.metrics import roc_auc_score

    labels = examples.labels ^ (draws < rate)
    score = judge(read(labels), labels, folds)
    auc = float(roc_auc_score(labels, score)) if len(np.unique(labels)) == 2 else None
    return Trial(rate, auc, *upper_ends(score, labels, examples.prompt_numbers))


def judge(signals: Sequence[Signal], labels: Bools, folds: Ints) -> Floats:
    """(N,) the log-odds of a thumbs-up by a logistic regression on all signals, fitted without the example's fold."""
    from sklearn.linear_model import LogisticRegression

    features = features_of(signals)
    score = np.zeros(len(labels))
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        if len(np.unique(labels[outside])) == 2:
            fitted = LogisticRegression(C=1.0, max_iter=500).fit(features[outside], labels[outside])
            score[inside] = fitted.decision_function(features[inside])
    return score


def upper_ends(score: Floats, labels: Bools, prompts: Ints) -> tuple[float, float]:
    """The upper ends of rho_D and rho_U.

    Args:
        score: (N,) the judge's.
        labels: (N,) thumbs-up.
        prompts: (N,) which prompt each example answers, from 0.
    """
    return _least_share(-score, ~labels, prompts), _least_share(score, labels, prompts)


def _least_share(score: Floats, hits: Bools, prompts: Ints) -> float:
    """The least upper end (Clopper and Pearson's) of the shares of hits among the examples with the lowest scores.

    The level is shared out among the groups. The answers to a prompt count as one, and as less where prompts differ in
    how many they have (Kish 1965), since they are alike.
    """
    from scipy.stats import beta

    level = 1 - (1 - LEVEL) / len(SHARES)
    found = 1.0
    for share in SHARES:
        group = score <= np.quantile(score, share)
        sizes = np.bincount(prompts[group])
        n = sizes.sum() ** 2 / (sizes**2).sum()
        k = float(hits[group].mean()) * n
        if k < n:
            found = min(found, float(beta.ppf(level, k + 1, n - k)))
    return found
