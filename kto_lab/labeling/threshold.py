"""From scores to thumbs by a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kto_lab.errors import LabError

NEAR = "the score is too near the threshold"


@dataclass(frozen=True)
class Threshold:
    """A threshold on the scores; answers above it are desirable.

    Attributes:
        by: "value" (a score), "quantile" (of the scores), or "ratio" (of thumbs-up to thumbs-down).
        at: the value; the quantile, in (0, 1); or the ratio, above 0.
        margin: scores nearer to the threshold than this give no thumb; on the scale of the scores.
    """

    by: Literal["value", "quantile", "ratio"]
    at: float
    margin: float

    def __post_init__(self) -> None:
        """Refuse an impossible threshold."""
        if self.by not in ("value", "quantile", "ratio"):
            raise LabError(f"labeler.threshold.by is {self.by!r}; it must be 'value', 'quantile' or 'ratio'.")
        if self.by == "quantile" and not 0 < self.at < 1:
            raise LabError(f"labeler.threshold.at is {self.at}; a quantile must be between 0 and 1.")
        if self.by == "ratio" and self.at <= 0:
            raise LabError(f"labeler.threshold.at is {self.at}; a ratio of thumbs-up to thumbs-down must be above 0.")
        if self.margin < 0:
            raise LabError(f"labeler.threshold.margin is {self.margin}; it must be at least 0.")

    def line(self, scores: Sequence[float]) -> float:
        """The score that an answer must be above to be desirable.

        For a quantile or a ratio, half-way between the scores on either side. Equal scores get the same thumb, so where
        many are equal the share is only as close as possible.
        """
        if self.by == "value" or not scores:
            return float(self.at)
        ranked = np.sort(np.asarray(scores, dtype=np.float64))
        below = self.at if self.by == "quantile" else 1 / (1 + self.at)
        steps = np.flatnonzero(ranked[1:] > ranked[:-1]) + 1
        if not steps.size:
            return float(ranked[0])
        # Among the possible thresholds, the one that leaves the closest share below it.
        place = steps[np.argmin(np.abs(steps - below * ranked.size))]
        return float((ranked[place - 1] + ranked[place]) / 2)

    def thumb(self, score: float, line: float) -> bool | None:
        """Thumbs-up or thumbs-down, or None where the score is too near the threshold."""
        return None if abs(score - line) < self.margin else score > line
