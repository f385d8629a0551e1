"""What a run folder's configuration may name: a folder is data, whoever it is from, and brings no code.

Hydra calls whatever a `_target_` names, and a loss is named by `function`. In the configuration of a folder these may
be what the package's own conf/ names, torch's optimisers and schedules, and what the user names in this very command:
in a folder given with --config-dir, or as a module of `trust`. Names are compared as they stand: an attribute of a
module may be another module that it imports, and so lead anywhere.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from kto_lab.configuration import config_dir
from kto_lab.errors import LabError

# Keys whose value is code to call.
TARGET, FUNCTION = "_target_", "function"
# Classes of these modules: optimisers and schedules take numbers, and no code.
OPTIMIZERS = ("torch.optim", "torch.optim.lr_scheduler", "bitsandbytes.optim", "torchao.optim")
# Of the groups of conf/, the one whose options name code and files of tasks by other keys. The command brings its own.
UNTRUSTED_GROUP = "evaluation"
_NAMED = re.compile(rf"\b(?:{TARGET}|{FUNCTION})\s*:\s*['\"]?([A-Za-z_][\w.]*)")


def refuse_foreign_code(cfg: DictConfig, file: Path, trusted: Sequence[str]) -> None:
    """Refuse a folder's configuration that names code which neither this package nor the user has named.

    Nothing of what it names is imported for that, modules that the user trusts apart.

    Args:
        cfg: what the folder's configuration says.
        file: that it is from, for messages.
        trusted: modules, and packages with all that is in them, that the user named on the command line.

    Raises:
        LabError: there is such a name, or a value that refers to another: a run writes its values resolved.
    """
    known = named_in(config_dir(), without=UNTRUSTED_GROUP).union(*map(named_in, _folders_of_command()))
    for key, name in _names(cfg, file):
        if not (isinstance(name, str) and (name in known or _is_optimizer(name) or _is_of(name, trusted))):
            module = str(name).rpartition(".")[0] or name
            raise LabError(
                f"{file} has {key}: {name}. A run folder is data, and this is no code that kto-lab's own options name, "
                f"so nothing of it was run. If you wrote {module} or have read it, say trust=[{module}], or give the "
                "folder of options that names it with --config-dir."
            )


def named_in(folder: Path, *, without: str | None = None) -> set[str]:
    """What the options in a folder of configuration name as code.

    Args:
        folder: of YAML files.
        without: a group that is left out.
    """
    files = [file for file in folder.rglob("*.yaml") if file.relative_to(folder).parts[0] != without]
    return {name for file in files for name in _NAMED.findall(file.read_text(encoding="utf-8"))}


def _folders_of_command() -> list[Path]:
    """The folders of configuration that the command line names beside conf/."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [Path(one.path) for one in sources if one.schema == "file" and one.provider not in ("hydra", "main")]


def _names(node: Any, file: Path, place: str = "") -> Iterator[tuple[str, object]]:
    """Every key of a DictConfig or ListConfig that names code, with its value, at any depth."""
    keys: Iterable[Any] = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        full = f"{place}.{key}" if place else str(key)
        if OmegaConf.is_interpolation(node, key):
            raise LabError(
                f"{file} has {full} refer to another value, and a run writes its values resolved: it was changed "
                "afterwards. Put back the file as the run wrote it."
            )
        value = node._get_node(key)
        if isinstance(value, DictConfig | ListConfig) and not value._is_none():
            yield from _names(value, file, full)
        if key in (TARGET, FUNCTION):
            yield full, OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value._value()


def _is_optimizer(name: str) -> bool:
    module, _, last = name.rpartition(".")
    return module in OPTIMIZERS and last[:1].isupper()


def _is_of(name: str, trusted: Sequence[str]) -> bool:
    """Whether a name is that of something in a trusted module itself, rather than in a module that it imports."""
    module = name.rpartition(".")[0]
    if not any(module == one or module.startswith(f"{one}.") for one in trusted):
        return False
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
