"""What makes two runs the same run: everything that can change the result, in four parts and as one hash.

| part            | what it is made of                                                                              |
|-----------------|-------------------------------------------------------------------------------------------------|
| `configuration` | the resolved configuration without loggers, devices and the folders that files are in           |
| `data`          | the content of the files and folders that the configuration names, those of the model apart      |
| `model`         | the content of the model's files, with the base of an adapter                                    |
| `code`          | what the run's code does, module by module, and what the packages ship for it; see `code`        |

It is known before anything is loaded, so that a sweep can tell at once what is left to do. Versions of torch and other
installed packages are not in it; a record names them.
"""

import glob
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kto_lab.errors import LabError
from kto_lab.files import cache_dir
from kto_lab.hashing import content_hash, sha256_as_it_is
from kto_lab.runs.code import Code
from kto_lab.runs.definitions import is_dotted
from kto_lab.sealed import read_text, recover, write_text

# What can be another without another result. The number format is put back by `settings`.
FREE_KEYS = ("runs_dir", "run_dir", "logger", "trainer", "reference_store")
# ... and what of a node can: a limit of time ends a run or does nothing.
FREE_IN_NODES = (".template_seconds",)
# The module that makes a run.
RUN = "kto_lab.runs.train"
OF_MODEL = ("model.", "reference.")
# The hash of a larger file (weights) is kept: to read gigabytes for every cell would take longer than all else.
READ_UP_TO = 64 * 2**20
HASHES = "hashes"
LONGEST_PATH = 1000
# Where a model's folder has its chat templates when there are several.
CHAT_TEMPLATES = "additional_chat_templates"
# Of this process.
CODE = Code()


@dataclass(frozen=True)
class Identity:
    """The parts of a run's identity.

    Attributes:
        configuration: a hash.
        data: key of the configuration to a hash of the file or folder that it names.
        model: likewise, of the model.
        code: module, or package and file in it, to a hash.
    """

    configuration: str
    data: Mapping[str, str]
    model: Mapping[str, str]
    code: Mapping[str, str]

    @property
    def run_id(self) -> str:
        """All of it: sixteen hex digits."""
        return content_hash(asdict(self))


def plain_values(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain values."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's configuration that can change its result, dotted key to value.

    Args:
        values: the configuration, resolved, as plain values; that of a record will do.
    """
    kept = {key: value for key, value in values.items() if key not in FREE_KEYS}
    found = leaves(kept | {"precision": values["trainer"]["precision"]})
    return {key: value for key, value in found.items() if not key.endswith(FREE_IN_NODES)}


def identify(cfg: DictConfig) -> Identity:
    """The identity of a run.

    Raises:
        LabError: code that the run would import is no Python.
    """
    found = settings(plain_values(cfg))
    code = CODE.closure(roots(text for text in found.values() if may_be_code(text) and CODE.module_of(text)))
    return identity_of(found, stamp=lambda text: stamp(Path(text)), code=code)


def identity_of(found: Mapping[str, Any], *, stamp: Callable[[str], str], code: Mapping[str, str]) -> Identity:
    """The identity of a run with these settings.

    Args:
        found: from `settings`.
        stamp: what a file or folder of this name holds; "" where there is none.
        code: what the run depends on; see `code`.
    """
    stamps = {key: held for key, value in found.items() if may_be_path(value) and (held := stamp(value))}
    # A file elsewhere is the same file: its content counts, and its name, which can say how it is read.
    plain = {key: Path(value).name if key in stamps else value for key, value in found.items()}
    model = {key: held for key, held in stamps.items() if key.startswith(OF_MODEL)}
    data = {key: held for key, held in stamps.items() if key not in model}
    return Identity(content_hash(plain), data, model, code)


def roots(named: Iterable[str]) -> tuple[str, ...]:
    """The names that a run starts from: its own function, and the classes and functions that its settings name."""
    return tuple(sorted({f"{RUN}.train", *named}))


def node_key(node: DictConfig) -> str:
    """A hash of a node's values and of the local files that it names: of what the node makes."""
    values = plain_values(node)
    texts = sorted({value for value in leaves(values).values() if may_be_path(value)})
    return content_hash(values, {text: stamp(Path(text)) for text in texts})


def leaves(node: Any, key: str = "") -> dict[str, Any]:
    """Nested values as dotted key to value; places of a list are keys, too."""
    if isinstance(node, list) and node:
        node = dict(enumerate(node))
    if not isinstance(node, dict) or not node:
        return {key: node}
    return {
        name: value
        for child, inner in node.items()
        for name, value in leaves(inner, f"{key}.{child}" if key else str(child)).items()
    }


def may_be_path(value: Any) -> bool:
    """Whether a value could name a file or folder."""
    return isinstance(value, str) and bool(value.strip("./ ")) and len(value) <= LONGEST_PATH and "\n" not in value


def may_be_code(value: Any) -> bool:
    """Whether a value could name a class or a function."""
    return isinstance(value, str) and is_dotted(value)


def stamp(path: Path) -> str:
    """A hash of what a file or folder holds; "" where there is none.

    A glob stands for the files that it matches, a folder with an adapter for a model that its base is a part of, a YAML
    file for the files beside it that it names.
    """
    try:
        if path.is_dir():
            files = [item for place in (path, path / CHAT_TEMPLATES) if place.is_dir() for item in place.iterdir()]
            own = sorted((str(item.relative_to(path)), _content(item)) for item in files if item.is_file())
            base = _base(path)
            return content_hash(own) if base is None else content_hash(own, stamp(base))
        if not path.is_file():
            found = _named_otherwise(str(path))
            return content_hash([(file.name, _content(file)) for file in found]) if found else ""
        own = [(file.name, _content(file)) for file in (path, *sorted(_beside(path, {path})))]
        return content_hash(own) if len(own) > 1 else own[0][1]
    except OSError:
        return ""


def _named_otherwise(text: str) -> list[Path]:
    """The files that a glob matches; for "-", a file with what has been read of standard input."""
    if text != "-" and not glob.has_magic(text):
        return []
    # Here, since most commands read no file of rows.
    from kto_lab.feedback.rows import is_pattern, matching, standard_input

    if text == "-":
        return [standard_input()] if standard_input.cache_info().currsize else []
    return matching(text) if is_pattern(text) else []


def _content(file: Path) -> str:
    """A hash of a file's content; of a large file it is kept in the cache folder."""
    about = file.stat()
    if about.st_size <= READ_UP_TO:
        return sha256_as_it_is(file)
    kept = cache_dir() / HASHES / content_hash((str(file.resolve()), about.st_mtime_ns, about.st_size))
    if (known := recover(kept, read_text, f"{file} is read again")) is not None:
        return known.strip()
    held = sha256_as_it_is(file)
    with suppress(LabError):
        write_text(kept, f"{held}\n")
    return held


def _beside(file: Path, seen: set[Path]) -> set[Path]:
    """The files beside a YAML file that it names, and that those name: what lm-eval's tasks include and call."""
    if file.suffix not in (".yaml", ".yml") or file.stat().st_size > READ_UP_TO:
        return set()
    text = file.read_text(encoding="utf-8", errors="replace")
    names = {*re.findall(r"[\w.-]+", text), *(f"{name}.py" for name in re.findall(r"!function\s+(\w+)", text))}
    named = {other for name in names if name.strip(".") and (other := file.parent / name).is_file()} - seen
    seen |= named
    return named.union(*(_beside(other, seen) for other in sorted(named)))


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


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys that have another value in one than in the other, or are in one alone."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
