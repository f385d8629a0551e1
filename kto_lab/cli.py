"""The command line: `kto-lab train`, `sweep`, `report`, `evaluate`, `feedback collect`, `feedback inspect`, `cache`.

Each command is a Hydra application over `conf/<command>.yaml`. Heavy imports wait until a command runs, so that help
and mistakes in the configuration come at once.
"""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kto_lab import __version__
from kto_lab.messages import explain

if TYPE_CHECKING:
    from omegaconf import DictConfig

# With one of these, Hydra answers and nothing is run.
HELP = {"--help", "-h", "--hydra-help"}
ASKING = HELP | {"--cfg", "-c", "--info", "-i"}
# Nodes of a configuration that are made without torch; the trainer, last, asks it for the devices that there are.
AT_ONCE = ("optimization", "lengths", "evaluation", "trainer")


@dataclass(frozen=True)
class Command:
    """A command: its configuration, the function that takes it, and what it is for."""

    config: str
    function: str
    about: str


COMMANDS = {
    "train": Command("train", "kto_lab.run:train", "align a policy with feedback, and judge it"),
    "sweep": Command("train", "kto_lab.studies.cell:run_cell", "run what is missing of a study, on a laptop or Slurm"),
    "report": Command("report", "kto_lab.studies.report:report_study", "tables, figures and a page of a study's runs"),
    "evaluate": Command("evaluate", "kto_lab.evaluate:evaluate", "judge a finished run again, or any model"),
    "feedback collect": Command(
        "collect",
        "kto_lab.feedback.command:collect_feedback",
        "sample answers from a model, and let a checker give the thumbs",
    ),
    "feedback inspect": Command(
        "inspect",
        "kto_lab.feedback.inspect:inspect_feedback",
        "show what is in the thumbs, before and after a corruption",
    ),
    "feedback import": Command(
        "import", "kto_lab.importing.command:import_feedback", "thumbs of a product, as its tools export them"
    ),
    "feedback label": Command(
        "label", "kto_lab.labeling.command:label_feedback", "give thumbs to answers by rules, principles or a model"
    ),
    "feedback audit": Command("audit", "kto_lab.auditing.command:audit_feedback", "rank the labels to doubt"),
    "feedback review": Command(
        "review", "kto_lab.auditing.review:review_feedback", "put a reviewer's decisions into the thumbs"
    ),
    "cache": Command("cache", "kto_lab.cache:cache", "what lies in the cache folder, and making room there"),
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

    command = COMMANDS[name]
    whole = list(sys.argv)

    def task(cfg: "DictConfig") -> object:
        # Lightning starts the other processes of a distributed run with the command line it finds here. They must
        # find the same run folder, whose default holds the time.
        folder = [f"run_dir='{cfg.run_dir}'"] if "run_dir" in cfg else []
        sys.argv = [whole[0], *_words_of_job()] if name == "sweep" else [*whole, *folder]

        def job() -> object:
            # A sweep's cell has a mistake of its own recorded, and goes on with the next.
            if name != "sweep":
                _check_values(cfg)
            return _load(command.function)(cfg)

        return with_messages(job)

    # Hydra's own words for an error advise to add the unknown key; with this set, it leaves the words to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if name == "sweep" and not ASKING.intersection(overrides):
        with_messages(lambda: _sweep(overrides, task))
        return
    if HELP.intersection(overrides):
        _list_groups_at_once()
    sys.argv = [whole[0], *overrides]
    with_messages(hydra.main(config_path=str(config_dir()), config_name=command.config, version_base="1.3")(task))


def _check_values(cfg: "DictConfig") -> None:
    """Make the nodes that are made without torch, so that a mistyped value shows before the imports of a run."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    # These alone: a study refers to keys that its cells have and the command has not.
    for key in AT_ONCE:
        # What is not set is said by the command, of all keys together.
        if key in cfg and not OmegaConf.missing_keys(cfg[key]):
            instantiate(cfg[key])


def _list_groups_at_once() -> None:
    """Have Hydra list its groups from its sources as they are: by itself it copies them for each, for seconds."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.object_type import ObjectType

    def options(
        loader: ConfigLoaderImpl,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        return loader.repository.get_group_options(group_name, results_filter)

    ConfigLoaderImpl.get_group_options = options  # type: ignore[assignment, method-assign]


def _sweep(words: list[str], task: Callable[..., object]) -> None:
    from kto_lab.studies.sweep import sweep

    flags = {"--dry-run", "--retry-failed"}
    sweep(
        [word for word in words if word not in flags],
        task,
        config_dir=config_dir(),
        dry_run="--dry-run" in words,
        retry_failed="--retry-failed" in words,
    )


def _words_of_job() -> list[str]:
    """The command line that makes the run of a sweep's job alone."""
    from hydra.core.hydra_config import HydraConfig

    return ["train", *(word for word in HydraConfig.get().overrides.task if not word.startswith("study="))]


def with_messages(function: Callable[[], object]) -> object:
    """Call a function; an error meant for a person is printed without a traceback, and ends the program with 1."""
    try:
        return function()
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        from rich.console import Console

        Console(stderr=True, highlight=False, soft_wrap=True).print("\nerror:", style="bold red", end=" ")
        print(message, file=sys.stderr)
        sys.exit(1)


def _load(dotted: str) -> Callable[..., object]:
    module, name = dotted.split(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()
