"""Whose a run folder is: an unfinished run goes on with what it began with, and nothing else."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kto_lab import __version__
from kto_lab.errors import LabError
from kto_lab.files import write_json, write_text
from kto_lab.runs.identity import identity

CONFIG = "config.yaml"
CLAIM = "run.json"
# What an unfinished run may not have another of, and how to say that it has.
_CHANGED = {
    "fingerprint": "other examples",
    "version": "another version of kto-lab",
    "tokenizer": "another tokenizer",
    "chat_template": "another chat template",
}


def refuse_another_configuration(folder: Path, cfg: DictConfig) -> None:
    """See that an unfinished run in the folder has the configuration that is asked for now.

    Raises:
        LabError: it has another; the message names the keys.
    """
    kept = folder / CONFIG
    if not kept.exists():
        return
    unfinished = OmegaConf.create(kept.read_text(encoding="utf-8"))
    assert isinstance(unfinished, DictConfig)
    before = _leaves(identity(unfinished))
    now = _leaves(identity(cfg))
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if differing:
        raise LabError(
            f"{folder} holds an unfinished run with another {', '.join(differing)}. Give the same settings to resume "
            "it, or choose another run_dir."
        )


def claim(folder: Path, cfg: DictConfig, fingerprint: str, tokenizer: dict[str, str]) -> None:
    """Make the folder this run's, now that its data and its plan stand; a run that fails before leaves it free.

    Args:
        folder: the run folder.
        cfg: the run's configuration, which is kept there.
        fingerprint: of the table of examples.
        tokenizer: hashes of the tokenizer and of its chat template; see `Encoder.hashes`.

    Raises:
        LabError: an unfinished run in the folder had other data, another tokenizer, another chat template, or another
            version of kto-lab.
    """
    mine = {"fingerprint": fingerprint, "version": __version__, **tokenizer}
    kept = folder / CLAIM
    if not kept.exists():
        write_text(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        write_json(kept, mine)
        return
    theirs = json.loads(kept.read_text(encoding="utf-8"))
    changed = [what for key, what in _CHANGED.items() if theirs.get(key) != mine[key]]
    if changed:
        raise LabError(
            f"{folder} holds an unfinished run with {' and '.join(changed)}. Put back what it began with to resume it, "
            "or choose another run_dir."
        )


def _leaves(node: Any, key: str = "") -> dict[str, Any]:
    """Dotted key to value."""
    if not isinstance(node, dict) or not node:
        return {key: node}
    return {
        name: value
        for child, inner in node.items()
        for name, value in _leaves(inner, f"{key}.{child}" if key else str(child)).items()
    }
