"""How a sweep names its cells in Weights & Biases."""

import re

from omegaconf import DictConfig

from kto_lab.sweeps.study import ARM, Cell

# Compared as text: to import the logger takes seconds, and most sweeps do without.
WANDB = "kto_lab.training.loggers.Wandb"
SCALE = "scale="


def naming(logger: DictConfig, *, study: str, cell: Cell, name: str) -> list[str]:
    """Overrides by which W&B shows a cell within its study; none for another logger, and none for what is set already.

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
    tags = [_quoted(tag[:LONGEST_TAG]) for tag in (study, str(cell.choices[ARM]), *scales)]
    wanted = {"group": _quoted(study), "name": _quoted(name), "tags": f"[{','.join(tags)}]"}
    return [f"logger.{key}={value}" for key, value in wanted.items() if not logger[key]]


def _quoted(text: str) -> str:
    """A text as one of Hydra's quoted strings: backslashes count only in front of a quote."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), text) + "'"
