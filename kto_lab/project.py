"""The command `kto-lab init`: a project of one's own: thumbs, a loss, a study and a Slurm profile that run at once."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from kto_lab import console
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.files import atomic_path
from kto_lab.keys import INIT

TEMPLATE = Path(__file__).resolve().parent / "templates" / "project"
# Python and Markdown of the template end in this, so that no tool takes them for files of the package.
_ENDING = ".txt"
_OWN = "PYTHONPATH=. kto-lab"
# What can be run at once, in the project's folder.
NEXT = (
    f"{_OWN} feedback inspect --config-dir conf feedback=my_thumbs",
    f"{_OWN} train --config-dir conf feedback=my_thumbs loss=my_loss scale=tiny run_dir=runs/first",
    f"{_OWN} sweep --config-dir conf study=my_study scale=tiny --dry-run",
)


def init(cfg: DictConfig) -> Path:
    """Make the folder of a project, and say what to run next.

    Raises:
        LabError: the folder holds something, or the disk refuses.
    """
    check_keys(cfg, INIT)
    folder = Path(cfg.folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise LabError(f"{folder} exists and is no empty folder: nothing is overwritten. Name a new one.")
    made = dict(contents())
    # Whole or not at all.
    with atomic_path(folder.resolve()) as partial:
        for name, text in made.items():
            file = partial / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    for name in made:
        console.say(f"    {folder / name}")
    console.stage("Next", "Each of these runs at once; the project's README.md says more.")
    for command in (f"cd {shlex.quote(str(folder))}", *NEXT):
        console.say(f"    {command}")
    return folder


def contents() -> Iterator[tuple[str, str]]:
    """The files of a project, each with its text."""
    for file in sorted(TEMPLATE.rglob("*")):
        if file.is_file():
            commands = "\n".join(f"    {command}" for command in NEXT)
            text = file.read_text(encoding="utf-8").replace("COMMANDS", commands)
            yield file.relative_to(TEMPLATE).as_posix().removesuffix(_ENDING), text
