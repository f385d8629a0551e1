"""What an import was asked for: its file under one key, and a request that its report keeps and that runs again."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kto_lab.errors import LabError
from kto_lab.importing.guess import option_config, options
from kto_lab.importing.known import TOOLS

# Of this run alone.
_OWN = ("output", "from", "path", "hydra")
_TARGET = "_target_"


def option_of(export: DictConfig) -> str | None:
    """The option of the group `export` that this configuration is of; None for a reader of one's own."""
    return next((option for option in options() if option_config(option)[_TARGET] == export.get(_TARGET)), None)


def named_words() -> list[str]:
    """The keys that the command line sets."""
    if not HydraConfig.initialized():
        return []
    return [word.lstrip("+~").partition("=")[0] for word in HydraConfig.get().overrides.task]


def with_path(cfg: DictConfig) -> DictConfig:
    """The configuration with `path` in the place that it stands for.

    Raises:
        LabError: the reader takes no single file, or is told two.
    """
    if cfg.path is None:
        return cfg
    option = option_of(cfg.export)
    key = TOOLS[option].path if option in TOOLS else "path"
    if key not in set(cfg.export):
        raise LabError(f"path={cfg.path} names a file, and export={option or '...'} reads none. Leave path out.")
    if not OmegaConf.is_missing(cfg.export, key) and cfg["from"] is None:
        raise LabError(
            f"path stands for export.{key}, and both are set: {cfg.path} and {cfg.export[key]}. Leave one out."
        )
    cfg = cfg.copy()
    cfg.export[key] = cfg.path
    return cfg


def request_of(cfg: DictConfig, option: str | None) -> dict[str, Any]:
    """What a report keeps of a configuration, to run the import again.

    Args:
        cfg: the configuration, with what was guessed.
        option: of the group `export`; None for a reader of one's own, which a report cannot name.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    export = {key: value for key, value in plain.pop("export").items() if key != _TARGET}
    # A URL of a database may hold a password.
    if "url" in export:
        export["url"] = None
    return {"export": option, "settings": export, **{key: plain[key] for key in plain if key not in _OWN}}


def again(cfg: DictConfig, set_here: Collection[str]) -> DictConfig:
    """The configuration of an import that runs again as its report has it.

    A report says which of our readers it was, never what to import: reports come from other people, too.

    Args:
        cfg: the configuration, whose `from` names the report.
        set_here: the keys that the command line sets; they win.

    Raises:
        LabError: the file is no report of an import, or its reader is not one of ours.
    """
    request = _request(Path(cfg["from"]))
    option, settings = request.pop("export"), request.pop("settings")
    made = cfg.copy()
    OmegaConf.set_struct(made, False)
    if "export" not in set_here:
        if option is None:
            raise LabError(f"{cfg['from']}: it was made with a reader of one's own. Name that with export=... as well.")
        own = option_config(option)
        if unknown := [key for key in settings if key == _TARGET or key not in set(own)]:
            raise LabError(
                f"{cfg['from']} sets export.{unknown[0]}, which export={option} does not have. Import again."
            )
        made.export = OmegaConf.merge(own, settings)
    for key, value in request.items():
        if key in made:
            made[key] = value
    for key in set_here:
        if key != "export" and OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(made, key, OmegaConf.select(cfg, key))
    return made


def _request(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(f"from={file} cannot be read: {error}. Name the .import_report.json beside a table.") from error
    request = report.get("request") if isinstance(report, dict) else None
    if not isinstance(request, dict) or not isinstance(request.get("settings"), dict):
        raise LabError(
            f"from={file} is no report of an import that can run again: it has no `request`. Name the "
            ".import_report.json beside a table."
        )
    return dict(request)
