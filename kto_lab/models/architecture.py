"""The configuration of a model that a `model` node names, read before its weights are."""

import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from kto_lab.files import cache_dir
from kto_lab.models.load import SMOLLM2_HUB, SMOLLM2_SHA256


def find_configuration(node: Mapping[str, Any]) -> PretrainedConfig | None:
    """What transformers knows of a model's shapes; None where that cannot be had without loading it.

    Args:
        node: the keys of `model`, `_target_` among them.
    """
    match str(node.get("_target_", "")).rpartition(".")[2]:
        case "tiny":
            return _read(str(importlib.resources.files("kto_lab.models") / "tiny_arithmetic"))
        case "smollm2":
            converted = cache_dir() / "models" / f"smollm2-135m-instruct-q4_1-{SMOLLM2_SHA256[:12]}"
            return _read(str(converted)) if converted.is_dir() else _read(SMOLLM2_HUB)
        case "hf":
            name, revision = str(node["name"]), node.get("revision")
            base = _base_of(Path(name), node.get("base"))
            return _read(name, revision) if base is None else _read(base)
    return None


def _base_of(folder: Path, base: str | None) -> str | None:
    """What a local adapter is put onto; None where the folder holds a whole model."""
    file = folder / "adapter_config.json"
    if base is not None or not file.is_file():
        return base
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, LookupError):
        return None


def _read(name: str, revision: str | None = None) -> PretrainedConfig | None:
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    # A plan is no reason to stop: what is wrong with the name shows when the model is loaded.
    except Exception:
        return None
    assert isinstance(config, PretrainedConfig)
    return config
