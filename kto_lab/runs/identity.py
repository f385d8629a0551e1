"""What makes two runs the same run: everything that can change the result, as one hash.

It is known before anything is loaded, so that a sweep can tell in milliseconds what is left to do. It is made of

- the resolved configuration without paths, loggers and devices,
- the content of the local files that the configuration names, for feedback, model, tasks of lm-eval and judge,
- the code of the rooms that a result comes from, docstrings and comments apart, and the files shipped with them.

Versions of torch and other packages are not in it; a record names them.
"""

import ast
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kto_lab.hashing import content_hash
from kto_lab.hashing import sha256_file

# What can be another without another result. The number format is put back by `identity`.
FREE_KEYS = ("runs_dir", "run_dir", "logger", "trainer", "reference_store")
ROOMS = ("feedback", "losses", "models", "training", "evaluation")
# Where a run has a judge, its score comes from this one, too.
OF_JUDGES = "judging"
# Larger files (weights) are known by size and time of change: to read gigabytes for every cell would cost more.
READ_UP_TO = 64 * 2**20
# Where a model's folder has its chat templates when there are several.
CHAT_TEMPLATES = "additional_chat_templates"


def plain_values(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain values."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The part of the configuration of a run that can change its result."""
    kept = {key: value for key, value in plain_values(cfg).items() if key not in FREE_KEYS}
    return kept | {"precision": cfg.trainer.precision}


def run_id(cfg: DictConfig) -> str:
    """The identity of a run: sixteen hex digits."""
    return identified(cfg)[0]


def identified(cfg: DictConfig) -> tuple[str, dict[str, str]]:
    """The identity of a run; and what it names for feedback, model, tasks and judge that may be files, with stamps."""
    kept = identity(cfg)
    judge = kept["evaluation"].get("judge")
    named = [kept["feedback"], kept["model"], kept["evaluation"]["lm_eval"], judge]
    code = code_version(*([OF_JUDGES] if judge else []))
    stamps = {text: stamp(Path(text)) for text in sorted(set(_texts(named)))}
    return content_hash(kept, {name: seen for name, seen in stamps.items() if seen}, code), stamps


def node_key(node: DictConfig) -> str:
    """A hash of a node's values and of the local files that it names: of what the node makes."""
    values = plain_values(node)
    return content_hash(values, {text: stamp(Path(text)) for text in sorted(set(_texts(values)))})


def stamp(path: Path) -> str:
    """What a file or folder holds: a hash of its content, for large files of size and time; "" where there is none.

    A folder with an adapter stands for a model that its base is a part of.
    """
    try:
        if path.is_dir():
            files = [item for place in (path, path / CHAT_TEMPLATES) if place.is_dir() for item in place.iterdir()]
            own = sorted((str(item.relative_to(path)), stamp(item)) for item in files if item.is_file())
            base = _base(path)
            return content_hash(own) if base is None else content_hash(own, stamp(base))
        if not path.is_file():
            return ""
        about = path.stat()
        return sha256_file(path) if about.st_size <= READ_UP_TO else content_hash(about.st_size, about.st_mtime_ns)
    except OSError:
        return ""


def _base(folder: Path) -> Path | None:
    """What the adapter of a folder names as its base, if the folder holds an adapter and it names one."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        name = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, LookupError, TypeError):
        return None
    return Path(name) if isinstance(name, str) and name and Path(name).resolve() != folder.resolve() else None


@functools.cache
def code_version(*more: str) -> str:
    """A hash of the code and the shipped files of the rooms that a result comes from, and of `more` rooms."""
    digest = hashlib.sha256()
    for room in (*ROOMS, *more):
        folder = Path(str(importlib.resources.files("kto_lab") / room))
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".md":
                text = _code(file) if file.suffix == ".py" else sha256_file(file)
                digest.update(f"{file.relative_to(folder.parent)}\\0{text}\\0".encode())
    return digest.hexdigest()[:16]


def _code(file: Path) -> str:
    """A Python file without what does not run: comments, layout, docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested values; those that name files are stamped."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
