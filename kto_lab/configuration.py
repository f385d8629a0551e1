"""What is asked of a composed configuration before any of it is made."""

import inspect
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kto_lab import values
from kto_lab.errors import LabError
from kto_lab.gpus import cells_at_once, gpus_per_node
from kto_lab.keys import OF_COMMAND, Keys
from kto_lab.kinds import Node
from kto_lab.quoting import quoted

# Nodes of a configuration that are made without torch; the trainer, last, asks it for the devices that there are.
AT_ONCE = ("optimization", "lengths", "evaluation", "trainer")

# What conf/ calls: `${unique:}` is a text that no other command has, the same wherever a configuration has it.
# The others say what a launcher asks for by default, of the accelerator and the devices of a trainer.
OmegaConf.register_new_resolver("unique", lambda: uuid.uuid4().hex[:8], use_cache=True, replace=True)
OmegaConf.register_new_resolver("gpus_per_node", gpus_per_node, replace=True)
OmegaConf.register_new_resolver("cells_at_once", cells_at_once, replace=True)


def config_dir() -> Path:
    """conf/: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def refuse_repeated(words: Sequence[str], where: str = "the command line") -> None:
    """Refuse a key that is set twice in one place: Hydra takes the last value and says nothing of the others."""
    first: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        # A flag of the command, such as --cfg, or what follows it.
        if word.startswith("-") or "=" not in word:
            continue
        if key in first:
            raise LabError(
                f"{where} sets {key} twice: {first[key]} and {word}. Leave one out, or name several values as "
                f"{key}=A,B for a sweep."
            )
        first[key] = word


def refuse_no_option(words: Sequence[str]) -> None:
    """Refuse a number, a truth or nothing as the option of a group: Hydra raises a bare ValueError there."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in words:
        group, _, value = word.partition("=")
        folder = config_dir() / group.partition("@")[0]
        if not (group and value and folder.is_dir()):
            continue
        try:
            option = OverridesParser.create().parse_override(word).value()
        except HydraException:
            continue  # Hydra says what is wrong with it
        if option is None or isinstance(option, bool | int | float):
            known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            raise LabError(f"{word}: {group} is chosen by the name of an option. There are: {known}.")


def as_hydra_reads(words: Sequence[str]) -> list[str]:
    """A command line in which a mapping may have any names, and needs no `+`.

    Hydra asks for a `+` before a mapping whose names the configuration lacks, and knows only some characters in names.
    What reads a mapping checks its names itself.

    Args:
        words: the command line, such as `feedback.labels={👍: true}`.
    """
    return [_with_any_names(word) for word in words]


def _with_any_names(word: str) -> str:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, value = word.partition("=")
    if not value.startswith("{") or not key[:1].isalpha():
        return word
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        # As a text, for what reads it; of others Hydra says what is wrong.
        if key.rpartition(".")[2] != "labels":
            return word
        value = quoted(value)
    return f"++{key}={value}"


def check_keys(cfg: DictConfig, known: Keys) -> None:
    """Refuse a node that no stage reads (`+name=...` puts one in), what is to be set and is not, and wrong values.

    Args:
        cfg: the configuration of a command.
        known: its keys, and what the value of each may be.

    Raises:
        LabError: there is something to refuse; of wrong values it names all.
    """
    if unknown := sorted(str(key) for key in cfg if key not in known):
        raise LabError(f"Nothing reads the configuration's {', '.join(unknown)}. Known: {', '.join(known)}.")
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise LabError(f"Not set: {', '.join(missing)}. Give each a value, such as {missing[0]}=...")
    _check_functions(cfg, "")
    check_values(cfg, known)


def check_at_once(cfg: DictConfig, command: str) -> None:
    """Refuse wrong values that show without an import that takes seconds; `check_keys` sees the others.

    Args:
        cfg: the configuration of a command.
        command: the name of its file in conf/.

    Raises:
        LabError: there are such values; the message names all of them.
    """
    made = [key for key in AT_ONCE if cfg.get(key) is not None]
    own = {key: kind for key, kind in OF_COMMAND[command].items() if values.is_data(kind)}
    check_values(cfg, own | dict.fromkeys(made, Node))
    for key in made:
        # What is not set is said by the command, of all keys together.
        if not OmegaConf.missing_keys(cfg[key]):
            instantiate(cfg[key])


def check_values(cfg: DictConfig, known: Keys) -> None:
    """Refuse values of some keys; what may be anything is not even resolved: a study refers to keys of its cells.

    Args:
        cfg: any configuration; a key may be missing.
        known: the keys, and what the value of each may be.

    Raises:
        LabError: there are wrong values; the message names all of them.
    """
    given = {}
    for key, kind in known.items():
        # `in` is false of a key that is not set.
        if key in cfg and kind is not Any:
            value = cfg[key]
            given[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    values.check(given, known)


def _check_functions(node: DictConfig, key: str) -> None:
    """Refuse a key that a function does not take; Hydra finds that out of a constructor, but calls no function.

    Raises:
        LabError: there is such a key, or the function cannot be imported.
    """
    for name, child in node.items_ex(resolve=False):
        if isinstance(child, DictConfig):
            _check_functions(child, f"{key}{name!s}.")
    if node.get("_partial_"):
        function = values.imported(node._target_, f"{key}_target_")
        try:
            known = inspect.signature(function).parameters
        except ValueError:
            return  # of a function written in C nothing is known
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            return
        if unknown := sorted(str(name) for name in node if not str(name).startswith("_") and name not in known):
            # The first is what the function is called with.
            keys = ", ".join(list(known)[1:]) or "none"
            raise LabError(f"There is no key '{key}{unknown[0]}': {node._target_} would not read it. Its keys: {keys}.")
