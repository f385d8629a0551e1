"""What a report calls choices, in words."""

from typing import Any

from kto_lab.reports.specs import shown

# What stands before a key on the command line and says nothing to a reader.
SILENT = ("optimization", "evaluation", "feedback")


def choice_label(key: str) -> str:
    """A choice for a reader: "learning rate" for `optimization.learning_rate`, "loss beta" for `loss.beta`."""
    parts = key.split("@")[-1].split(".")
    return " ".join(part.replace("_", " ") for part in parts if part not in SILENT or len(parts) == 1)


def choice_words(key: str, value: Any) -> str:
    """A choice and its value for a reader: "loss beta 0.1"."""
    return f"{choice_label(key)} {shown(value)}"
