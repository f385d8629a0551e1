"""The command line: runs the commands that `kto_lab.commands` lists.

Each command is a Hydra application over `conf/<command>.yaml`. Heavy imports wait until a command runs, so that help
and mistakes in the configuration come at once.
"""

import importlib
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

from kto_lab import __version__, completion
from kto_lab.commands import COMMANDS, under, usage
from kto_lab.configuration import as_hydra_reads, check_at_once, config_dir, refuse_no_option, refuse_repeated
from kto_lab.messages import explain
from kto_lab.quoting import quoted
from kto_lab.stopping import Stopped, stoppable
from kto_lab.sweeps.claims import own_gpus, starts_processes
from kto_lab.sweeps.request import read
from kto_lab.usage import closest, help_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

# With one of these, Hydra answers and nothing is run.
HELP = {"--help", "-h"}
ASKING = {"--hydra-help", "--cfg", "-c", "--info", "-i"}
MULTIRUN = {"--multirun", "-m"}
# What a shell reports of a program that a broken pipe has ended.
BROKEN_PIPE = 128 + signal.SIGPIPE
GO_ON_SWEEPING = "The same command goes on: cells that are done stay done, and this one from what it has saved."


def main() -> None:
    """Entry point of the `kto-lab` command."""
    with stoppable(), _ends_with_its_reader():
        with_messages(lambda: _run_command_line(sys.argv[1:]))


@contextmanager
def _ends_with_its_reader() -> Iterator[None]:
    """End quietly where nobody reads on what is said, as behind `| head`; a pipe of anything else is an error."""
    threading.excepthook = _in_a_thread
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:
        deserted = [stream for stream in (sys.stdout, sys.stderr) if _is_deserted(stream)]
        if not deserted:
            raise
        # The interpreter writes what is left at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in deserted:
            os.dup2(nowhere, stream.fileno())
        sys.exit(BROKEN_PIPE)


def _in_a_thread(what: threading.ExceptHookArgs) -> None:
    """A progress display whose reader has gone ends; the command goes on to what it has to say itself."""
    if not (isinstance(what.exc_value, BrokenPipeError) and _is_deserted(sys.stdout)):
        threading.__excepthook__(what)


def _is_deserted(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run_command_line(arguments: list[str]) -> None:
    if arguments in (["--version"], ["-V"]):
        print(f"kto-lab {__version__}")
        return
    if completion.is_asked(arguments):
        completion.answer(arguments)
        return
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    name = next((name for name in COMMANDS if arguments[: len(name.split())] == name.split()), None)
    if name is not None:
        run(name, arguments[len(name.split()) :])
        return
    words = [word for word in arguments if word not in HELP]
    among = under(words)
    if among:
        print(usage(among))
        return
    family = under(words[:1])
    meant = closest(words, COMMANDS)
    hint = f". Did you mean 'kto-lab {meant}'?" if meant else ""
    print(f"kto-lab: there is no command {' '.join(words[: 2 if family else 1])!r}{hint}\n", file=sys.stderr)
    print(usage(family or list(COMMANDS)), file=sys.stderr)
    sys.exit(2)


def run(name: str, overrides: list[str]) -> None:
    """Compose a command's configuration with Hydra and call its function."""
    import hydra

    command = COMMANDS[name]
    process = os.getpid()

    def task(cfg: "DictConfig") -> object:
        # Here, because a launcher calls this in a process of its own.
        _narrate_on_the_console()
        if name == "train":
            _give_folder_of_job(cfg)

        def job() -> object:
            # A sweep has said what it runs. A cell has a mistake of its own recorded, and goes on with the next.
            if name != "sweep":
                _say_what_is_run(name, cfg)
                check_at_once(cfg, command.config)
            return _load(command.function)(cfg)

        with _gpus_of_job(cfg, process):
            return with_messages(job, to_go_on=_to_go_on(name, cfg), cfg=cfg)

    # Hydra's own words for an error advise to add the unknown key; with this set, it leaves the words to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if command.bare is not None and overrides and not overrides[0].startswith("-") and "=" not in overrides[0]:
        overrides = [f"{command.bare}={quoted(overrides[0])}", *overrides[1:]]
    with_messages(lambda: refuse_repeated(overrides))
    with_messages(lambda: refuse_no_option(overrides))
    overrides = as_hydra_reads(overrides)
    if HELP.intersection(overrides):
        print(help_of(name, command, overrides))
        return
    if name == "sweep" and not ASKING.intersection(overrides):
        with_messages(lambda: _sweep(overrides, task), to_go_on=GO_ON_SWEEPING)
        return
    whole = list(sys.argv)
    sys.argv = [whole[0], *overrides]
    try:
        with_messages(hydra.main(config_path=str(config_dir()), config_name=command.config, version_base="1.3")(task))
    finally:
        sys.argv = whole


def _gpus_of_job(cfg: "DictConfig", process: int) -> AbstractContextManager[None]:
    """GPUs of a job's own, ahead of any import of torch, where the command has started processes for its jobs."""
    from hydra.core.hydra_config import HydraConfig

    if os.getpid() == process or "trainer" not in cfg or not starts_processes(HydraConfig.get().launcher):
        return nullcontext()
    return own_gpus(cfg.trainer.accelerator, cfg.trainer.devices)


def _to_go_on(name: str, cfg: "DictConfig") -> str:
    """How a command that was stopped goes on."""
    if name == "sweep":
        return GO_ON_SWEEPING
    if name == "train":
        return f"The same command with run_dir={cfg.run_dir} goes on from what is saved there."
    return "Nothing is half written; run the command again."


def _narrate_on_the_console() -> None:
    from kto_lab import console
    from kto_lab.narration import narrate_with

    narrate_with(console)


def _say_what_is_run(name: str, cfg: "DictConfig") -> None:
    """The first line of a command, before the imports of its work, which take seconds."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from kto_lab import console

    command, chosen = COMMANDS[name], HydraConfig.get().runtime.choices
    choices = [f"{group}={chosen[group]}" for group in command.groups if chosen.get(group) not in (None, "null")]
    places = {word: OmegaConf.select(cfg, key) for key, word in command.places.items()}
    where = [f"{word} {place}" for word, place in places.items() if place is not None]
    about = "; ".join(filter(None, [" ".join(choices), *where]))
    console.say(f"kto-lab {name}" + (f": {about}" if about else ""))


def _sweep(words: list[str], task: Callable[..., object]) -> None:
    from kto_lab import console

    # Before the imports of a sweep, which take longer.
    console.say(f"kto-lab sweep: {' '.join(words)}" if words else "kto-lab sweep")
    from kto_lab.reports.wandb_study import log_study
    from kto_lab.sweeps.sweep import sweep

    conf = config_dir()
    # In a checkout: an installed package has none.
    published = conf.parent / "results"
    sweep(read(words), task, config_dir=conf, published=published, log_study=log_study)


def _give_folder_of_job(cfg: "DictConfig") -> None:
    """Have a job of a multirun (`-m`) run in the folder that Hydra has for it: those of one run are another's."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode is RunMode.MULTIRUN:
        cfg.run_dir = HydraConfig.get().runtime.output_dir


def with_messages(
    function: Callable[[], object], *, to_go_on: str = "Run the command again.", cfg: "DictConfig | None" = None
) -> object:
    """Call a function; an error is printed without a traceback, and ends the program with 1.

    Being told to stop ends it with 143 (SIGTERM) or 130 (Ctrl-C), what was saved, and `to_go_on`: how to go on. An
    error that nobody foresaw leaves a report, which has its traceback and the configuration `cfg`; see `crash`.
    """
    try:
        # Within: of an exception Hydra would speak, to whoever is left.
        with _ends_with_its_reader():
            return function()
    except Stopped as stopped:
        print(" ".join(filter(None, [f"\nstopped by {stopped.by}.", stopped.saved, to_go_on])), file=sys.stderr)
        sys.exit(stopped.code)
    except Exception as error:
        message = explain(error) or _crashed(error, cfg)
        from kto_lab.console import Screen

        Screen(stderr=True, highlight=False, soft_wrap=True).print("\nerror:", style="bold red", end=" ")
        print(message, file=sys.stderr)
        sys.exit(1)


def _crashed(error: Exception, cfg: "DictConfig | None") -> str:
    """Write the report of an error that nobody foresaw, and return what is said of it."""
    from kto_lab import crash

    shown = os.environ.get(crash.VARIABLE) == "1"
    if shown:
        traceback.print_exception(error)
    # As the process was started: Hydra finds another command line in sys.argv.
    written = crash.write_report(error, sys.orig_argv, cfg)
    what = crash.without_secrets(f"{type(error).__name__}: {error}").partition("\n")[0]
    return "\n".join(
        [
            f"kto-lab met an error that it did not foresee, at {crash.place(error)}:",
            f"    {what}",
            f"The report {written} can be sent: it has the versions, the command line, the configuration and the "
            "traceback, and no passwords, keys or tokens."
            if written
            else "No report could be written.",
            *([] if shown else [f"{crash.VARIABLE}=1 shows the traceback here."]),
        ]
    )


def _load(dotted: str) -> Callable[..., object]:
    module, name = dotted.split(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()
