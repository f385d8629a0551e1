"""What a report calls choices, in words."""

from kto_lab.evaluation.metrics import bounds
from kto_lab.statistics import Bounds

# What stands before a key on the command line and says nothing to a reader.
SILENT = ("optimization", "evaluation", "feedback")


def choice_label(key: str) -> str:
    """A choice for a reader: "learning rate" for `optimization.learning_rate`, "loss beta" for `loss.beta`."""
    parts = key.split("@")[-1].split(".")
    return " ".join(part.replace("_", " ") for part in parts if part not in SILENT or len(parts) == 1)


def bounds_of(metric: str) -> Bounds | None:
    """The least and the largest value that a metric can have; None where it does not have both."""
    low, high = bounds(metric)
    return None if low is None or high is None else (low, high)
