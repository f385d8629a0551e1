"""How a sweep names its cells in Weights & Biases."""

import os

from omegaconf import DictConfig

from kto_lab.quoting import quoted
from kto_lab.sweeps.study import ARM, Cell

# Compared as text: to import the logger takes seconds, and most sweeps do without.
WANDB = "kto_lab.training.loggers.Wandb"
SCALE = "scale="
# W&B's own, which a person has set for all cells; WANDB_NAME would give every cell the same name.
VARIABLES = {"group": "WANDB_RUN_GROUP", "tags": "WANDB_TAGS"}


def naming(logger: DictConfig, *, study: str, cell: Cell, name: str) -> list[str]:
    """Overrides by which W&B shows a cell within its study; none for another logger, and none for what is set already.

    A key sets it, or a variable of W&B's own.

    Args:
        logger: the cells' node, composed.
        study: its name, which becomes the group and a tag.
        cell: its arm and scale are tags.
        name: of the cell.
    """
    if logger.get("_target_") != WANDB:
        return []
    from kto_lab.training.loggers import LONGEST_TAG

    scales = [word.lstrip("+").removeprefix(SCALE) for word in cell.overrides if word.lstrip("+").startswith(SCALE)]
    tags = [quoted(tag[:LONGEST_TAG]) for tag in (study, str(cell.choices[ARM]), *scales)]
    wanted = {"group": quoted(study), "name": quoted(name), "tags": f"[{','.join(tags)}]"}
    return [
        f"logger.{key}={value}"
        for key, value in wanted.items()
        if not logger[key] and not os.environ.get(VARIABLES.get(key, ""))
    ]
