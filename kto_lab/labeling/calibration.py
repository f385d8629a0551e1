"""From a judge's margins to probabilities of a thumbs-up."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kto_lab.labeling.folds import require_both

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The probability of a thumbs-up for each margin: 1 / (1 + exp(-(slope margin + offset))).

    Attributes:
        slope: per nat; never below 0.
        offset: in nats.
    """

    slope: float
    offset: float

    def chance(self, margins: Floats) -> Floats:
        """(N,) probabilities from (N,) margins in nats."""
        from scipy.special import expit

        chances: Floats = expit(self.slope * np.asarray(margins) + self.offset)
        return chances


def prior_calibration(prior: float) -> Calibration:
    """Without thumbs: the margin above that of the same question about nothing, taken as log-odds."""
    return Calibration(1.0, -prior)


def platt(margins: Floats, thumbs: NDArray[np.bool_], what: str) -> Calibration:
    """Platt scaling (Platt 1999): a logistic regression of the thumb on the margin, in units of its spread.

    A judge whose yes goes with thumbs-down is useless: its slope is 0, not negative, and every answer gets the share of
    thumbs-up. Inverting it would make it a different judge than the one requested.

    Raises:
        LabError: there are not both kinds of thumb.
    """
    from sklearn.linear_model import LogisticRegression

    require_both(thumbs.tolist(), what)
    centre, spread = float(margins.mean()), float(margins.std())
    share = float(thumbs.mean())
    level = Calibration(0.0, float(np.log(share / (1 - share))))
    if spread == 0:
        return level
    fitted = LogisticRegression().fit(((margins - centre) / spread)[:, None], thumbs)
    slope = float(fitted.coef_[0, 0]) / spread
    return Calibration(slope, float(fitted.intercept_[0]) - slope * centre) if slope > 0 else level
