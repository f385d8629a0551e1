"""A report of an error that nobody foresaw: one file that a person can read, and send with a report of the bug."""

import os
import platform
import re
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_lab import __version__
from kto_lab.errors import LabError
from kto_lab.files import cache_dir, write_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Set to 1, it has the traceback shown in the terminal, too.
VARIABLE = "KTO_LAB_TRACEBACK"
PACKAGES = ("torch", "lightning", "transformers", "datasets", "peft", "hydra-core", "omegaconf", "wandb", "lm_eval")
HIDDEN = "[hidden]"
# How a name ends whose value is a secret: PGPASSWORD, api_key, HF_TOKEN. A plural counts things: max_tokens.
_SECRET = (
    r"(?:[\w.-]*(?:token|secret|password|passwd|passphrase|credentials?|apikey)|(?:[\w.-]*[._-])?(?:key|pwd|dsn|auth))"
)
_NAME = re.compile(_SECRET, re.IGNORECASE)
# A name in any notation (YAML, a dict, a command line), and the value that follows it.
_NAMED = re.compile(rf"""(?<![\w.-])({_SECRET}["']?\s*[=:]\s*)("[^"\n]*"|'[^'\n]*'|[^\s,}}\]]+)""", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")
# A shorter value of a variable may be a word of the text.
SHORTEST_SECRET = 6


def write_report(error: BaseException, command: Sequence[str], cfg: "DictConfig | None") -> Path | None:
    """Write the report of an error, whole or not at all, and return its path; None where no folder can be written.

    It goes into the run folder where there is one, else into `crashes/` of the cache folder, else into the system's
    folder of temporary files. No environment variable is written, and no secret; see `without_secrets`.

    Args:
        error: what was raised.
        command: the command line, a word each.
        cfg: the composed configuration, if it came so far.
    """
    text = without_secrets(_text(error, command, cfg))
    name = f"crash_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}.txt"
    for folder in _folders(cfg):
        try:
            write_text(folder / name, text)
        except LabError:
            continue
        return folder / name
    return None


def place(error: BaseException) -> str:
    """Where an error was raised: the last line of this package that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}kto_lab{os.sep}" in frame.filename] or frames
    if not own:
        return ""
    return f"{own[-1].filename.rpartition(f'{os.sep}kto_lab{os.sep}')[2]}:{own[-1].lineno}"


def without_secrets(text: str) -> str:
    """A text without what must not be sent: secrets of the environment, values named as secrets, keys, addresses.

    Keys and tokens are found by the forms that services document, as in `kto-lab feedback import`. The home folder is
    written "~".
    """
    # Imported here because it takes a while, and most commands end well.
    from kto_lab.importing.personal import Kind, find, redacted

    for value in _secrets_of_environment():
        text = text.replace(value, HIDDEN)
    text = _PASSWORD_IN_URL.sub(HIDDEN, _NAMED.sub(rf"\1{HIDDEN}", text))
    text = redacted(text, [one for one in find(text, None) if one.kind in (Kind.KEY, Kind.EMAIL)])
    home = str(Path.home())
    return text if home == os.sep else text.replace(home, "~")


def _secrets_of_environment() -> list[str]:
    """The longest first, since one may begin as another does."""
    found = {value for name, value in os.environ.items() if _NAME.fullmatch(name) and len(value) >= SHORTEST_SECRET}
    return sorted(found, key=len, reverse=True)


def _folders(cfg: "DictConfig | None") -> Iterable[Path]:
    if cfg is not None and cfg.get("run_dir"):
        yield Path(cfg.run_dir)
    yield cache_dir() / "crashes"
    yield Path(tempfile.gettempdir())


def _hidden(cfg: "DictConfig") -> Any:
    """The configuration as it is written, where a value from the environment is not looked up, without secrets."""
    from omegaconf import OmegaConf

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: HIDDEN if _NAME.fullmatch(str(key)) else walk(value) for key, value in node.items()}
        return [walk(value) for value in node] if isinstance(node, list) else node

    return walk(OmegaConf.to_container(cfg, resolve=False))


def _text(error: BaseException, command: Sequence[str], cfg: "DictConfig | None") -> str:
    from omegaconf import OmegaConf

    parts = {
        "command": " ".join(command),
        "versions": "\n".join(f"{name}: {value}" for name, value in _versions().items()),
        "configuration": "not composed" if cfg is None else OmegaConf.to_yaml(_hidden(cfg)).rstrip(),
        "traceback": "".join(traceback.format_exception(error)).rstrip(),
    }
    head = (
        "kto-lab met an error that it did not foresee. Passwords, keys and tokens are left out; please look once more."
    )
    return "\n\n".join([head, *(f"== {name} ==\n{part}" for name, part in parts.items())]) + "\n"


def _versions() -> dict[str, Any]:
    found: dict[str, Any] = {"kto-lab": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["platform"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    try:
        # With the commit and the hardware; torch may be what fails.
        from kto_lab.runs.environment import environment

        here = environment()
        found |= {key: here[key] for key in ("git", "cpu", "gpus")}
    except Exception as error:
        found["hardware"] = f"not known: {error!r}"
    return found
