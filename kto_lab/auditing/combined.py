"""Several signals in one: how probable it is that each label is wrong, and at which rates the labels are.

A logistic regression of the true label on the signals' log-odds, fitted through the noise to the labels that are given:

    P(truly up | x) = sigmoid(w x + b) = t
    P(label up | x) = (1 - rho_D) t + rho_U (1 - t)
    P(label wrong | x, label up) = rho_U (1 - t) / P(label up | x)      and likewise for a label that is down

with rho_D = P(label down | truly up) and rho_U = P(label up | truly down), which are fitted, too: they are where the
share of labels up levels off as the signals grow sure. So the rates come out right if the signals are sure somewhere,
however often they are wrong elsewhere. After Bootkrajang and Kaban 2012, "Label-Noise Robust Logistic Regression and
Its Applications". No true label is needed.

Where the signals are nowhere sure, the rates could be nearly any, and a wrong ratio of the two would put all labels of
one class before those of the other. So the two rates are one unless the labels say otherwise (by the Bayesian
information criterion); or, where several thumbs on one answer tell the rates (see `rates.of_raters`), they are near
those unless the labels say otherwise. All is fitted again to resampled prompts, and the mean is the suspicion. The
spread is no interval of the rates: thumbs that hardly follow the signals are fitted best by no wrong label at all, and
in every resample (see `bounds`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kto_lab import console
from kto_lab.auditing.examples import Bools, Examples, Floats
from kto_lab.auditing.signals import Signal

RESAMPLES = 100
# Rates to start from: the likelihood may have several tops. Tops with rates nearer than half of SAME are one.
STARTS = (0.02, 0.2, 0.4)
SAME = 0.02
# Of a rate: at a half a thumb says nothing.
HIGHEST = 0.49
# Priors are of log(rate + LEAST). The two are TOGETHER or APART by these deviations, or each as NEAR to what is known.
LEAST, TOGETHER, APART, NEAR = 0.01, 0.01, 0.5, 0.25
# A fit is sure of a class where a TAIL of the examples is in it with a chance of 1 - UNSURE or more.
TAIL, UNSURE = 0.05, 0.05
# The deviation of the prior of a weight on a signal that varies by 1.
WEIGHT = 7.0


@dataclass(frozen=True)
class Prior:
    """What is held of the rates before the labels are seen: scale @ log(rates + LEAST) - centre is normal.

    Attributes:
        scale: (M, 2).
        centre: (M,).
        price: what a fit with it costs, in nats, for being less simple than another.
    """

    scale: Floats
    centre: Floats
    price: float = 0.0


def priors_of(
    examples: float, known: tuple[float, float] | None = None, *, supposed: float | None = None
) -> list[Prior]:
    """The priors among which the fit chooses: near the known rates, at a supposed one, or the rates are one or two.

    Args:
        examples: how many there are, for the criterion.
        known: rho_D and rho_U as other thumbs tell them; None where they tell nothing.
        supposed: both, where nothing tells them.
    """
    if supposed is not None:
        return [Prior(np.eye(2) / TOGETHER, np.full(2, np.log(supposed + LEAST) / TOGETHER))]
    if known is not None:
        return [Prior(np.eye(2) / NEAR, np.log(np.minimum(known, HIGHEST) + LEAST) / NEAR)]
    difference = np.array([[1.0, -1.0]])
    return [
        Prior(difference / TOGETHER, np.zeros(1)),
        Prior(difference / APART, np.zeros(1), price=float(np.log(examples)) / 2),
    ]


@dataclass(frozen=True)
class Fit:
    """One fit.

    Attributes:
        truly_up: (N,) t.
        rho_desirable: P(label down | truly up).
        rho_undesirable: P(label up | truly down).
    """

    truly_up: Floats
    rho_desirable: float
    rho_undesirable: float

    @property
    def sure(self) -> tuple[bool, bool]:
        """Whether some examples are up beyond doubt, which tells rho_D, and some down, which tells rho_U."""
        low, high = np.quantile(self.truly_up, [TAIL, 1 - TAIL])
        return bool(high >= 1 - UNSURE), bool(low <= UNSURE)

    def suspicion(self, labels: Bools) -> Floats:
        """(N,) the probability that the label is wrong, at these rates."""
        t, down, up = self.truly_up, self.rho_desirable, self.rho_undesirable
        wrong = np.where(labels, up * (1 - t), down * t)
        right = np.where(labels, (1 - down) * t, (1 - up) * (1 - t))
        return wrong / np.maximum(wrong + right, 1e-12)


@dataclass(frozen=True)
class Combined:
    """What all signals say together of N examples.

    Attributes:
        suspicion: (N,) the probability that the label is wrong, the mean over fits to resampled prompts; no better
            known than the rates are, but a ranking all the same.
        fit: to all examples.
        drawn: (RESAMPLES, 2) rho_D and rho_U of the fits to resampled prompts.
    """

    suspicion: Floats
    fit: Fit
    drawn: Floats


def combine(
    signals: Sequence[Signal],
    examples: Examples,
    *,
    known: tuple[float, float] | None = None,
    supposed: float | None = None,
    seed: int,
) -> Combined:
    """The noise-aware fit, and its bootstrap over prompts.

    Args:
        signals: those that can say something; none has read an example's own label for that example.
        examples: N examples.
        known: rho_D and rho_U as other thumbs tell them, where they do.
        supposed: both rates, for a ranking where nothing tells them.
        seed: of the bootstrap.
    """
    features, labels = features_of(signals), examples.labels
    prompt_of = examples.prompt_numbers
    prompts = int(prompt_of.max()) + 1
    priors = priors_of(len(labels), known, supposed=supposed)
    starts = first_guesses(features.shape[1], [*((rate, rate) for rate in STARTS), *([known] if known else [])])
    tops = find_tops(features, labels, np.ones(len(labels)), starts, priors)
    rng = np.random.default_rng(seed)
    drawn, total = np.empty((RESAMPLES, 2)), np.zeros(len(labels))
    with console.progress("resamples", RESAMPLES) as advance:
        for place in range(RESAMPLES):
            counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts)).astype(np.float64)
            again = fit_at(find_tops(features, labels, counts[prompt_of], tops, priors)[0], features)
            drawn[place] = again.rho_desirable, again.rho_undesirable
            total += again.suspicion(labels)
            advance()
    return Combined(total / RESAMPLES, fit_at(tops[0], features), drawn)


def features_of(signals: Sequence[Signal]) -> Floats:
    """(N, K) the signals' log-odds, and whether each is silent where one may be; each of deviation 1."""
    silent = [~signal.known for signal in signals if not signal.known.all()]
    columns = np.stack([*(signal.logits for signal in signals), *silent], axis=-1).astype(np.float64)
    deviation = columns.std(axis=0)
    return columns / np.where(deviation > 0, deviation, 1.0)


def first_guesses(width: int, rates: Sequence[tuple[float, float]]) -> list[Floats]:
    """Where to start from: all signals count alike, and labels are wrong at each of some rates."""
    doubled = 2 * np.clip(np.array(rates), 1e-3, HIGHEST)
    return [np.r_[np.full(width, 1 / width), 0.0, point] for point in np.log(doubled / (1 - doubled))]


def find_tops(
    features: Floats, labels: Bools, weights: Floats, starts: Sequence[Floats], priors: Sequence[Prior]
) -> list[Floats]:
    """The tops of the posterior that are reached from some points, the highest first, each once.

    Args:
        features: (N, K).
        labels: (N,) as given.
        weights: (N,) how often each example counts.
        starts: points (K + 3,): slopes, what is added, and of each rate the number of which it is half the sigmoid.
        priors: of the rates; a top is as high as under the best of them.
    """
    from scipy.optimize import minimize

    found: list[tuple[float, Floats]] = []
    for prior in priors:
        goal = _goal(features, labels, weights, prior)
        for start in starts:
            top = minimize(goal, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
            found.append((float(top.fun) + prior.price, top.x))
    tops: list[Floats] = []
    for _, point in sorted(found, key=lambda one: one[0]):
        if all(np.abs(sigmoid(point[-2:]) - sigmoid(top[-2:])).max() > SAME for top in tops):
            tops.append(point)
    return tops


def fit_at(point: Floats, features: Floats) -> Fit:
    """The fit that a point is, for examples with these features (N, K)."""
    rates = 0.5 * sigmoid(point[-2:])
    return Fit(sigmoid(features @ point[:-3] + point[-3]), float(rates[0]), float(rates[1]))


def _goal(features: Floats, labels: Bools, weights: Floats, prior: Prior) -> Callable[[Floats], tuple[float, Floats]]:
    """The negative log-posterior of (w, b, and each rate as 0.5 sigmoid of a number), with its gradient."""
    width = features.shape[1]

    def goal(point: Floats) -> tuple[float, Floats]:
        slopes, rates = point[:width], 0.5 * sigmoid(point[-2:])
        down, up = rates
        t = sigmoid(features @ slopes + point[width])
        seen = np.clip(up + (1 - down - up) * t, 1e-9, 1 - 1e-9)
        off = prior.scale @ np.log(rates + LEAST) - prior.centre
        value = -(weights @ np.where(labels, np.log(seen), np.log(1 - seen)))
        value += (slopes @ slopes) / (2 * WEIGHT**2) + (off @ off) / 2
        by_seen = weights * np.where(labels, -1 / seen, 1 / (1 - seen))
        by_line = by_seen * (1 - down - up) * t * (1 - t)
        by_rates = np.array([-(by_seen @ t), by_seen @ (1 - t)])
        by_rates += prior.scale.T @ off / (rates + LEAST)
        gradient = [features.T @ by_line + slopes / WEIGHT**2, [by_line.sum()], by_rates * rates * (1 - 2 * rates)]
        return float(value), np.concatenate(gradient)

    return goal


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(-values)), for values of any size."""
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))
