"""The weights of desirable and undesirable examples: lambda_D and lambda_U.

A weighting is a function of the class counts that are trained on.
"""

import math
from dataclasses import dataclass
from typing import Literal

from kto_lab.errors import LabError


@dataclass(frozen=True)
class Weights:
    """lambda_D and lambda_U."""

    desirable: float
    undesirable: float

    def scale(self, n_desirable: int, n_undesirable: int) -> float:
        """The root mean square of a step's weights, which is the factor by which they scale its gradient.

        Gradients of single examples hardly point the same way, so the norm of their weighted mean grows with the root
        of the sum of the squared weights. A step is clipped at `optimization.clip_norm` times this: an outlier is
        clipped, and a rare example with a large weight keeps it. docs/studies.md has the measurement.
        """
        squares = self.desirable**2 * n_desirable + self.undesirable**2 * n_undesirable
        return math.sqrt(squares / (n_desirable + n_undesirable))


@dataclass(frozen=True)
class Fixed:
    """The two weights as given. The paper advises lambda_D n_D / (lambda_U n_U) between 1 and 3/2."""

    lambda_desirable: float = 1.0
    lambda_undesirable: float = 1.0

    def __post_init__(self) -> None:
        """Refuse weights that are negative, or both zero."""
        if (
            min(self.lambda_desirable, self.lambda_undesirable) < 0
            or self.lambda_desirable + self.lambda_undesirable == 0
        ):
            raise LabError("loss.weighting: lambda_desirable and lambda_undesirable must not be negative, nor both 0.")

    def weights(self, n_desirable: float, n_undesirable: float) -> Weights:
        """The weights for training data with these counts."""
        return Weights(self.lambda_desirable, self.lambda_undesirable)


@dataclass(frozen=True)
class Balanced:
    """Weights that bring lambda_D n_D / (lambda_U n_U) to a target, for the counts actually trained on.

    One class is weighted up and the other keeps weight 1. Only the ratio matters: AdamW's steps do not depend on the
    scale of the weights, and clipping adapts to it (`Weights.scale`), so weights whose mean is 1 would give
    the same run. Source: Ethayarajh et al. 2024, arXiv 2402.01306,
    equation 8, which advises 1 to 4/3 (in the later version to 3/2) with one of the weights fixed at 1.

    Attributes:
        target: lambda_D n_D / (lambda_U n_U); 1 weighs the classes as if they had equal size.
    """

    target: float

    def __post_init__(self) -> None:
        """Refuse a target that is not positive."""
        if not self.target > 0:
            raise LabError(f"loss.weighting.target is {self.target}; it must be positive.")

    def weights(self, n_desirable: float, n_undesirable: float) -> Weights:
        """The weights for training data with these counts; both classes must be there."""
        ratio = self.target * n_undesirable / n_desirable
        return Weights(ratio, 1.0) if ratio >= 1 else Weights(1.0, 1 / ratio)


@dataclass(frozen=True)
class Deployment:
    """Importance weights that give the training data the class ratio of deployment.

    lambda_D = q / p and lambda_U = (1 - q) / (1 - p), with p the share of thumbs up that is trained on and q the share
    in deployment, so that the weighted mean of the loss is its expectation in deployment (Elkan 2001, "The Foundations
    of Cost-Sensitive Learning"; only the class ratio is assumed to shift). The weights
    average to 1 over the training data.

    Attributes:
        desirable_share: q, in (0, 1).
    """

    desirable_share: float

    def __post_init__(self) -> None:
        """Refuse a share of 0 or 1, which would silence a class."""
        if not 0 < self.desirable_share < 1:
            raise LabError(f"loss.weighting.desirable_share is {self.desirable_share}; it must be between 0 and 1.")

    def weights(self, n_desirable: float, n_undesirable: float) -> Weights:
        """The weights for training data with these counts; both classes must be there."""
        share = n_desirable / (n_desirable + n_undesirable)
        return Weights(self.desirable_share / share, (1 - self.desirable_share) / (1 - share))


@dataclass(frozen=True)
class Prospect:
    """Probability weighting: each class counts by its perceived frequency instead of its true one.

    With p the share of thumbs up and c the curvature, people overweight the rarer class:

        lambda_D = w(p) / p    and    lambda_U = w(1 - p) / (1 - p)
        w(p) = p^c / (p^c + (1 - p)^c)^(1/c)    form "tversky_kahneman" (1992, equation 6)
        w(p) = exp(-(-log p)^c)                 form "prelec" (1998, "The Probability Weighting Function", equation 3.1)

    Applied to the class frequencies, because there it is well defined: a thumb that is up with probability
    p and else down is the two-outcome mixed prospect that w was measured on, whose value is w+(p) v(gain) + w-(1 - p)
    v(loss) (Tversky and Kahneman 1992, "Advances in Prospect Theory", equations 1 and 2). It is not applied to single
    examples, which are not outcomes of one prospect, nor to the policy's probabilities, which no rater has seen.

    Attributes:
        form: of w, "tversky_kahneman" or "prelec".
        curvature_desirable: c of w+; 1 is no distortion. Medians of 1992: 0.61 for gains and 0.69 for losses; Prelec
            gives 0.65.
        curvature_undesirable: c of w-.
    """

    form: Literal["tversky_kahneman", "prelec"]
    curvature_desirable: float
    curvature_undesirable: float

    def __post_init__(self) -> None:
        """Refuse another form, and a curvature at which w is no increasing function."""
        if self.form not in ("tversky_kahneman", "prelec"):
            raise LabError(f"loss.weighting.form is {self.form!r}; it must be 'tversky_kahneman' or 'prelec'.")
        # Below 0.28 Tversky and Kahneman's function is not increasing (Rieger and Wang 2006).
        least = 0.28 if self.form == "tversky_kahneman" else 0.0
        if not min(self.curvature_desirable, self.curvature_undesirable) > least:
            raise LabError(f"loss.weighting: the curvatures must be above {least} for the form {self.form}.")

    def weights(self, n_desirable: float, n_undesirable: float) -> Weights:
        """The weights for training data with these counts; both classes must be there."""
        share = n_desirable / (n_desirable + n_undesirable)
        return Weights(
            self._felt(share, self.curvature_desirable) / share,
            self._felt(1 - share, self.curvature_undesirable) / (1 - share),
        )

    def _felt(self, p: float, c: float) -> float:
        """w(p)."""
        if self.form == "prelec":
            return math.exp(-((-math.log(p)) ** c))
        return p**c / (p**c + (1 - p) ** c) ** (1 / c)
