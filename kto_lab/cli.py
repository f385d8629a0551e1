"""The command line: `kto-lab train`, `kto-lab evaluate`, `kto-lab feedback collect`.

Each command is a Hydra application over `conf/<command>.yaml`. Heavy imports wait until a command runs, so that help and
mistakes in the configuration come at once.
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kto_lab import __version__
from kto_lab.errors import LabError


@dataclass(frozen=True)
class Command:
    """A command: its configuration, the function that takes it, and what it is for."""

    config: str
    function: str
    about: str


COMMANDS = {
    "train": Command("train", "kto_lab.run:train", "align a policy with feedback, and judge it"),
    "evaluate": Command("evaluate", "kto_lab.evaluate:evaluate", "judge a finished run again, or any model"),
    "feedback collect": Command(
        "collect",
        "kto_lab.feedback.command:collect_feedback",
        "sample answers from a model, and let a checker give the thumbs",
    ),
}


def main() -> None:
    """Entry point of the `kto-lab` command."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        print(f"kto-lab {__version__}")
        return
    name = next((name for name in COMMANDS if arguments[: len(name.split())] == name.split()), None)
    if name is None:
        asked = not arguments or arguments[0] in ("-h", "--help", "help")
        if not asked:
            print(f"kto-lab: there is no command {' '.join(arguments[:2])!r}\n", file=sys.stderr)
        print(usage(), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    run(name, arguments[len(name.split()) :])


def usage() -> str:
    """What `kto-lab --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"    kto-lab {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "kto-lab: alignment from thumbs-up / thumbs-down, done as reproducible science",
            "",
            *lines,
            "",
            "Every command takes Hydra overrides, such as loss=dpo optimization.learning_rate=1e-5;",
            "--help lists its groups, --cfg job prints its configuration, --config-dir adds your own.",
        ]
    )


def config_dir() -> Path:
    """conf/: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def run(name: str, overrides: list[str]) -> None:
    """Compose a command's configuration with Hydra and call its function."""
    import hydra
    from omegaconf import DictConfig

    command = COMMANDS[name]
    whole = list(sys.argv)

    def task(cfg: DictConfig) -> None:
        # Lightning starts the other processes of a distributed run with the command line it finds here.
        sys.argv = whole
        with_messages(_load(command.function), cfg)

    sys.argv = [whole[0], *overrides]
    hydra.main(config_path=str(config_dir()), config_name=command.config, version_base="1.3")(task)()


def with_messages(function: Callable[..., object], cfg: object) -> None:
    """Call a function; an error meant for a person is printed without a traceback, and ends the program with 1."""
    try:
        function(cfg)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        from rich.console import Console

        Console(stderr=True, highlight=False, soft_wrap=True).print("\nerror:", style="bold red", end=" ")
        print(message, file=sys.stderr)
        sys.exit(1)


def explain(error: BaseException) -> str | None:
    """The message for a person behind an exception, or None where there is none.

    Hydra wraps what a constructor raises; an unknown or missing key reaches it as a TypeError.
    """
    from hydra.errors import InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LabError):
            return str(cause)
        cause = cause.__cause__
    if isinstance(error, InstantiationException | OmegaConfBaseException):
        return f"The configuration does not fit: {error}"
    return None


def _load(dotted: str) -> Callable[..., object]:
    module, name = dotted.split(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()
