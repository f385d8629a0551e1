"""What a report calls things, in words: choices, and the ends of a metric's scale."""

from kto_lab.statistics import Bounds

# What stands before a key on the command line and says nothing to a reader.
SILENT = ("optimization", "evaluation", "feedback")
# Of the metrics that have ends, by the last part of their names.
ENDS: dict[str, Bounds] = {"sentiment": (-1.0, 1.0)} | dict.fromkeys(
    ("pass_rate", "finished", "reward_accuracy", "reward_auc", "pair_accuracy", "acc", "acc_norm", "exact_match"),
    (0.0, 1.0),
)


def choice_label(key: str) -> str:
    """A choice for a reader: "learning rate" for `optimization.learning_rate`, "loss beta" for `loss.beta`."""
    parts = key.split("@")[-1].split(".")
    return " ".join(part.replace("_", " ") for part in parts if part not in SILENT or len(parts) == 1)


def bounds_of(metric: str) -> Bounds | None:
    """The least and the largest value that a metric can have; None where it has no ends."""
    name = metric.rsplit(".", 1)[-1]
    for end in ("_base", "_validation", "_test"):
        name = name.removesuffix(end)
    ends = ENDS.get(name.removesuffix("_difference"))
    # Between two policies it is as far as from one end to the other.
    return (ends[0] - ends[1], ends[1] - ends[0]) if ends and name.endswith("_difference") else ends
