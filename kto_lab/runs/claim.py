"""Whose a run folder is: the run in it goes on with what it began with, and nothing else."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kto_lab import __version__
from kto_lab.errors import LabError
from kto_lab.runs.differences import differences
from kto_lab.runs.identity import Identity, differing, identify, leaves, plain_values, settings
from kto_lab.runs.record import RECORD, find_record
from kto_lab.sealed import read_json, read_text, recover, write_json, write_text

CONFIG = "config.yaml"
CLAIM = "run.json"
# What an unfinished run may not have another of, and how to say that it has.
_CHANGED = {
    "fingerprint": "other examples",
    "version": "another version of kto-lab",
    "weights": "other weights of the model",
    "reference": "other weights of the reference",
    "tokenizer": "another tokenizer",
    "chat_template": "another chat template",
}

# The keys that a value is interpolated from.
_INTERPOLATED = re.compile(r"\$\{([^${}]+)\}")


def run_folder(cfg: DictConfig) -> Path:
    """The folder that a run's configuration names.

    Raises:
        LabError: it names none.
    """
    for key in ("runs_dir", "run_dir"):
        if not isinstance(cfg[key], str) or not cfg[key].strip():
            raise LabError(f"{key} is {cfg[key]!r}, which names no folder. Leave it out, or name one: {key}=runs/mine.")
    return Path(cfg.run_dir)


def is_finished(folder: Path, cfg: DictConfig) -> bool:
    """Whether the run that is asked for has finished in a folder. A damaged record is set aside: the run goes on.

    Raises:
        LabError: another run has finished there; the message says in what it differs.
    """
    record = recover(
        folder / RECORD, lambda file, _: find_record(file.parent), "the run goes on from what else is there"
    )
    if record is None:
        return False
    identity = identify(cfg)
    if record["run_id"] != identity.run_id:
        parts = record.get("identity")
        before = Identity(**parts) if parts else None
        told = "; ".join(differences(settings(record["config"]), before, settings(plain_values(cfg)), identity))
        raise LabError(f"{folder} holds another finished run: {told}. Choose another run_dir.")
    return True


def refuse_another_configuration(folder: Path, cfg: DictConfig) -> None:
    """See that an unfinished run in the folder has the configuration that is asked for now.

    Raises:
        LabError: it has another; the message names the keys that a person sets.
    """
    kept = folder / CONFIG
    if not kept.exists():
        return
    unfinished = OmegaConf.create(read_text(kept, _begin_again(folder)))
    assert isinstance(unfinished, DictConfig)
    keys = differing(settings(plain_values(unfinished)), settings(plain_values(cfg)))
    # A key that follows another one which differs, as optimizer.lr does, was not set by anybody.
    written = leaves(OmegaConf.to_container(cfg, resolve=False))
    keys = [key for key in keys if not set(keys) & set(_INTERPOLATED.findall(str(written.get(key))))]
    if keys:
        raise LabError(
            f"{folder} holds an unfinished run with another {', '.join(keys)}. Give the same settings to resume "
            "it, or choose another run_dir."
        )


def claim(
    folder: Path, cfg: DictConfig, identity: Identity, fingerprint: str, model: Mapping[str, Any], *, first: bool
) -> None:
    """Make the folder this run's, now that its data and its plan stand; a run that fails before leaves it free.

    Args:
        folder: the run folder.
        cfg: the run's configuration, which is kept there.
        identity: of the run.
        fingerprint: of the table of examples.
        model: what the record says of it, with the hashes of its weights, its tokenizer and its chat template.
        first: whether this is the first process of the run, which writes for all.

    Raises:
        LabError: an unfinished run in the folder had other data, other weights, another tokenizer, another chat
            template, another version of kto-lab, or other code.
    """
    mine: dict[str, Any] = {"fingerprint": fingerprint, "version": __version__}
    mine |= {key: model.get(key) for key in ("weights", "tokenizer", "chat_template")}
    # A checkpoint holds neither the frozen weights nor the reference's: a resumed run loads them again.
    mine["reference"] = model.get("reference", {}).get("weights")
    kept = folder / CLAIM
    if not kept.exists():
        if first:
            write_text(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
            write_json(kept, {**mine, "code": identity.code})
        return
    theirs = read_json(kept, _begin_again(folder))
    changed = [what for key, what in _CHANGED.items() if theirs.get(key) != mine[key]]
    if modules := differing(theirs.get("code", {}), identity.code):
        changed.append(f"other code ({', '.join(modules)})")
    if changed:
        raise LabError(
            f"{folder} holds an unfinished run with {' and '.join(changed)}. Put back what it began with to resume it, "
            "or choose another run_dir."
        )


def _begin_again(folder: Path) -> str:
    """What a person can do where it is not known any more what an unfinished run began with."""
    return f"Put it back to resume the run, remove {folder} to begin again, or choose another run_dir."
