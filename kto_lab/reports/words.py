"""What a report calls choices, in words."""

# What stands before a key on the command line and says nothing to a reader.
SILENT = ("optimization", "evaluation", "feedback")


def choice_label(key: str) -> str:
    """A choice for a reader: "learning rate" for `optimization.learning_rate`, "loss beta" for `loss.beta`."""
    parts = key.split("@")[-1].split(".")
    return " ".join(part.replace("_", " ") for part in parts if part not in SILENT or len(parts) == 1)
