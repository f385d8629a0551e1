"""The effect of gradient clipping on a run: how often a step is clipped, and by which factor."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kto_lab.losses.weighting import Weights
from kto_lab.training.data import TrainingData


@dataclass(frozen=True)
class Clipping:
    """The clipping of a run.

    Attributes:
        share: of the steps, how many were clipped.
        median_factor: what clipped gradients were multiplied with; None where none was clipped.
    """

    share: float
    median_factor: float | None

    @classmethod
    def of(cls, factors: Sequence[float]) -> "Clipping":
        """From what the gradient of each step was multiplied with; 1 is not clipped."""
        clipped = [factor for factor in factors if factor < 1]
        return cls(len(clipped) / len(factors), statistics.median(clipped) if clipped else None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a record holds them."""
        return asdict(self)

    def said(self) -> str:
        """A sentence; a warning where most steps were clipped."""
        if self.median_factor is None:
            return "clipped: no step"
        text = f"clipped: {self.share:.0%} of the steps, to {self.median_factor:.2g} of their gradient (median)"
        if self.share <= 0.5:
            return text
        return (
            f"warning: {text}. What such steps gain from a larger gradient is lost: if that is not meant, raise "
            "optimization.clip_norm, or lower the learning rate or loss.beta"
        )


def factors(metrics: Path) -> list[float]:
    """The factor by which each step's gradient was clipped, from a run's `metrics.csv`."""
    with metrics.open(encoding="utf-8") as file:
        return [float(row["clip_factor"]) for row in csv.DictReader(file)]


def planned_scales(data: TrainingData, weights: Weights) -> list[float]:
    """The factor on `clip_norm` in each step of the plan; see `Weights.scale`."""
    firsts = [[data.desirable[data.plan.units[unit][0]] for unit in step] for step in data.plan.steps]
    return [weights.scale(sum(up), len(up) - sum(up)) for up in firsts]
