"""The command line that repeats a run, found from the configuration in its record."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kto_lab.configuration import config_dir
from kto_lab.quoting import plain, quoted
from kto_lab.runs.identity import FREE_KEYS, differing, leaves, plain_values, settings

# Groups whose options are part of another's node: they are chosen as value@loss.value.
WITHIN = {"loss": ("value", "reference_point", "weighting")}


def command(config: Mapping[str, Any]) -> str | None:
    """A `kto-lab train` line whose configuration is this one in all that can change the result.

    The last part of a path stands for it: where a file lay is this machine's own.

    Args:
        config: the resolved configuration, as a record has it.

    Returns:
        The line; None where no options of conf/ make this configuration, as with a loss of one's own.
    """
    wanted = {key: _without_folder(value) for key, value in settings(config).items()}
    words = list(_chosen(config))
    try:
        found = _settings_of(words)
        own = [_word(key, config) for key in _to_set(differing(found, wanted))]
        words += own
        # A text of several lines is no part of a line.
        if differing(_settings_of(words), wanted) or any("\n" in word for word in words):
            return None
    except (HydraException, OmegaConfBaseException, LookupError, TypeError, ValueError):
        return None
    return " ".join(["kto-lab train", *map(shlex.quote, words)])


def _settings_of(words: Sequence[str]) -> dict[str, Any]:
    # Within a command Hydra has been given conf/ already, and refuses it a second time.
    if GlobalHydra.instance().is_initialized():
        cfg = compose("train", list(words))
    else:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("train", list(words))
    cfg.run_dir, cfg.logger = "", {}
    return settings(plain_values(cfg))


def _chosen(config: Mapping[str, Any]) -> Iterator[str]:
    """For each group the option that is nearest to its node, where that is not the default."""
    defaults = OmegaConf.load(config_dir() / "train.yaml").defaults
    for entry in defaults:
        if not OmegaConf.is_dict(entry):
            continue
        ((group, default),) = entry.items()
        if default is None or group.startswith("override") or group in FREE_KEYS:
            continue
        node = config.get(group)
        nearest = _nearest(group, node)
        if nearest is not None and nearest != default:
            yield f"{group}={nearest}"
        own = _own_choices(group, nearest)
        for inner in WITHIN.get(group, ()):
            option = _nearest(inner, node[inner]) if isinstance(node, Mapping) and inner in node else None
            if option not in (None, own.get(inner)):
                yield f"{inner}@{group}.{inner}={option}"


def _own_choices(group: str, option: str | None) -> dict[str, str]:
    """What an option chooses for the groups within it, by their names."""
    file = config_dir() / group / f"{option}.yaml"
    node: Any = OmegaConf.to_container(OmegaConf.load(file)) if option else {}
    return {
        key.partition("@")[2]: chosen
        for entry in node.get("defaults", [])
        if isinstance(entry, dict)
        for key, chosen in entry.items()
    }


def _nearest(group: str, node: Any) -> str | None:
    """The option of a group that makes what a node makes, and has most of its values."""
    found = leaves(node)
    best: tuple[int, str] | None = None
    for file in sorted((config_dir() / group).glob("*.yaml")):
        option = leaves(OmegaConf.to_container(OmegaConf.load(file), resolve=False))
        if any(option.get(key) != found.get(key) for key in ("_target_", "function")):
            continue
        same = sum(option[key] == value for key, value in found.items() if key in option)
        if best is None or same > best[0]:
            best = same, file.stem
    return best[1] if best else None


def _to_set(keys: Sequence[str]) -> list[str]:
    """The keys to give: a list is given whole, and what follows another key is left to it."""
    named = [".".join(part for part in key.split(".") if not part.isdigit()) for key in keys]
    named = ["trainer.precision" if key == "precision" else key for key in named]
    follows = {"optimizer.lr"} if "optimization.learning_rate" in named else set()
    return [key for key in dict.fromkeys(named) if key not in follows]


def _word(key: str, config: Mapping[str, Any]) -> str:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return f"{key}={_value(value)}"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{quoted(name)}:{_value(item)}' for name, item in value.items())}}}"
    if isinstance(value, str):
        return plain(_without_folder(value))
    return repr(value)


def _without_folder(value: Any) -> Any:
    """A path of this machine by its last part: a record writes such with "..", "~" or "/"."""
    return Path(value).name if isinstance(value, str) and value.startswith(("../", "~/", "/", "./")) else value
