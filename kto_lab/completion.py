"""Completion in a shell, by Hydra's own plugins: it knows one configuration per program, and here each command has one.

The shell asks `kto-lab -sc query=bash` with the line that is typed so far. What is left here is to find the command in
it, complete that one's own name and flags, and ask Hydra for the rest with the command's configuration.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from kto_lab.commands import COMMANDS, Command
from kto_lab.configuration import config_dir
from kto_lab.errors import LabError
from kto_lab.usage import complete_groups_of, config_dirs

FLAGS = ("-sc", "--shell-completion")
# Hydra's flags that are of use with every command.
HYDRA_FLAGS = ("--help", "--cfg", "--info", "--multirun", "--config-dir")
PROGRAM = "kto-lab"
SHELLS = ("bash", "zsh", "fish")


def is_asked(arguments: Sequence[str]) -> bool:
    """Whether a command line is a shell's."""
    return bool(arguments) and arguments[0] in FLAGS


def answer(arguments: Sequence[str]) -> None:
    """Answer a shell: print the script to install, or the candidates for the word under the cursor.

    Args:
        arguments: `-sc` and one of `install=SHELL`, `uninstall=SHELL` and `query=SHELL`.
    """
    asked, _, shell = arguments[-1].partition("=")
    if len(arguments) != 2 or asked not in ("install", "uninstall", "query") or shell not in SHELLS:
        raise LabError(f"{' '.join(arguments)} is no question of a shell's. Use {FLAGS[0]} install={'|'.join(SHELLS)}.")
    if asked == "query":
        # Whatever is wrong with the line is said when it is run, not between two keys; Hydra would print it.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        with suppress(Exception):
            _complete(arguments)
        return
    if asked == "install" and shell != "fish":
        # Hydra's script needs the words of the line as a person sees them: value@loss.value=power is one.
        print("COMP_WORDBREAKS=${COMP_WORDBREAKS//@}")
    _hydra(COMMANDS["train"], arguments)


def _complete(arguments: Sequence[str]) -> None:
    line = os.environ["COMP_LINE"]
    line = line[: int(os.environ.get("COMP_POINT") or len(line))]
    done = line.split()[1:]
    last = "" if line[-1:].isspace() or not done else done.pop()
    name = next((name for name in COMMANDS if done[: len(name.split())] == name.split()), None)
    if name is None:
        _print(sorted(_next_words(done)), last, arguments)
        return
    command, words = COMMANDS[name], done[len(name.split()) :]
    if last.startswith("-"):
        _print([*HYDRA_FLAGS, *(flag.split()[0] for flag in command.flags)], last, arguments)
        return
    os.environ["COMP_LINE"] = " ".join([PROGRAM, *(word for word in words if not word.startswith("-")), last])
    complete_groups_of(command.config, without=command.without)
    _hydra(command, [*arguments, *(part for folder in config_dirs(words) for part in ("--config-dir", folder))])


def _next_words(done: Sequence[str]) -> set[str]:
    """The words that a command's name can go on with."""
    names = [name.split() for name in COMMANDS]
    return {name[len(done)] for name in names if name[: len(done)] == list(done) and len(name) > len(done)}


def _print(candidates: Sequence[str], last: str, arguments: Sequence[str]) -> None:
    found = [word for word in candidates if word.startswith(last)]
    # As Hydra's plugins do.
    print(("\n" if "query=fish" in arguments else " ").join(found))


def _hydra(command: Command, arguments: Sequence[str]) -> None:
    import hydra

    # By its name, also where it was started as `python -m kto_lab`: the script is for this program.
    sys.argv = [PROGRAM, *arguments]
    hydra.main(config_path=str(config_dir()), config_name=command.config, version_base="1.3")(_nothing)()


def _nothing(cfg: object) -> None:
    """Hydra answers a shell without a call of this."""
