"""The expected effect of label noise on a loss of single thumbs, and the correction for it.

Flips are described by rho_D = P(thumb down | truly desirable) and rho_U = P(thumb up | truly undesirable). With a
symmetric value function (v(u) + v(-u) constant: the logistic, the identity), the gradient in r of an undesirable
example is that of a desirable one with the opposite sign and lambda_U instead of lambda_D. So at a fixed reference
point the expected gradient under flips is that of the true labels with other weights:

    lambda_D' = (1 - rho_D) lambda_D - rho_D lambda_U
    lambda_U' = (1 - rho_U) lambda_U - rho_U lambda_D

At equal weights and rates that is exactly (1 - 2 rho) times the clean gradient. A class whose weight turns
negative is pushed the wrong way: beyond rho = lambda_own / (lambda_D + lambda_U), which is low for the class that
weighs less. Derived here from equation 9 of Ethayarajh et al. 2024, arXiv 2402.01306.
"""

from dataclasses import dataclass

from kto_lab.errors import LabError
from kto_lab.losses.weighting import Weights


@dataclass(frozen=True)
class FlipRates:
    """How often a thumb is wrong.

    Attributes:
        desirable: rho_D, the chance that a truly desirable completion has a thumb down.
        undesirable: rho_U, the chance that a truly undesirable completion has a thumb up.
    """

    desirable: float
    undesirable: float

    def __post_init__(self) -> None:
        """Refuse invalid rates."""
        rates = (self.desirable, self.undesirable)
        if not all(0 <= rate < 1 for rate in rates) or not sum(rates) < 1:
            raise LabError(
                f"The flip rates are {self.desirable} and {self.undesirable}: each must be at least 0, and their sum "
                "below 1 (at 1 a thumb says nothing)."
            )


def effective_weights(weights: Weights, rates: FlipRates) -> Weights:
    """lambda_D' and lambda_U' of the true classes when labels flip at `rates`; negative where a gradient inverts."""
    up, down = weights.desirable, weights.undesirable
    return Weights(
        (1 - rates.desirable) * up - rates.desirable * down,
        (1 - rates.undesirable) * down - rates.undesirable * up,
    )


def inversion_rates(weights: Weights) -> tuple[float, float]:
    """The flip rates of the desirable and of the undesirable class beyond which the class's gradient inverts."""
    total = weights.desirable + weights.undesirable
    return weights.desirable / total, weights.undesirable / total


def inversion_warnings(seen: Weights, rates: FlipRates) -> list[str]:
    """Warnings for label noise that inverts the gradient of a class; empty if it inverts none.

    Args:
        seen: the weights of the observed thumbs (for `kto_robust`: `robust_weights`).
        rates: the actual label noise.
    """
    effective = effective_weights(seen, rates)
    return [
        f"Label noise turns the gradient on truly {name} examples around: {rate:.1%} of them have the other thumb, and "
        f"with lambda_D {seen.desirable:.3g} and lambda_U {seen.undesirable:.3g} the limit is {limit:.1%} (for "
        "symmetric value functions, in expectation). Weigh the classes more equally, or use loss=kto_robust."
        for name, rate, limit, left in zip(
            ("desirable", "undesirable"),
            (rates.desirable, rates.undesirable),
            inversion_rates(seen),
            (effective.desirable, effective.undesirable),
            strict=True,
        )
        if left < 0
    ]


def robust_weights(weights: Weights, rates: FlipRates) -> Weights:
    """The weights of observed thumbs with which KTO's logistic loss has the gradient of `kto_robust`.

    lambda_D = ((1 - rho_U) lambda_D + rho_D lambda_U) / (1 - rho_D - rho_U), and likewise for lambda_U.
    `effective_weights` is the inverse.
    """
    up, down = weights.desirable, weights.undesirable
    left = 1 - rates.desirable - rates.undesirable
    return Weights(
        ((1 - rates.undesirable) * up + rates.desirable * down) / left,
        ((1 - rates.desirable) * down + rates.undesirable * up) / left,
    )


def clean_counts(n_desirable: int, n_undesirable: int, rates: FlipRates) -> tuple[float, float]:
    """The expected numbers of truly desirable and undesirable examples behind the observed counts.

    Raises:
        LabError: the rates are impossible: flips alone would make more thumbs of a class than there are.
    """
    total = n_desirable + n_undesirable
    desirable = (n_desirable - rates.undesirable * total) / (1 - rates.desirable - rates.undesirable)
    if not 0 < desirable < total:
        raise LabError(
            f"loss.flip_rates ({rates.desirable}, {rates.undesirable}) do not fit {n_desirable} thumbs up and "
            f"{n_undesirable} down: flips alone would make more of one class. Lower them."
        )
    return desirable, total - desirable
