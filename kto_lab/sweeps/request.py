"""What the command line of `kto-lab sweep` asks for."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kto_lab.errors import LabError

# Overrides of the sweep itself, which no cell has.
OF_SWEEP = ("hydra/", "hydra.", "study=", "runs_dir=")
# Words of its own beside Hydra's, and what each does.
FLAGS = {
    "--dry-run": "say which cells there are and what they will cost, and run none",
    "--why": "say of each missing cell in what it differs from the nearest finished run, and run none",
    "--retry-failed": "run cells again that failed or whose record is damaged",
    "--accept-code PART": "take finished runs whose code differs in this module, or anywhere (all), as they are",
}


@dataclass(frozen=True)
class Request:
    """A command line, read.

    Attributes:
        own: overrides of the sweep itself.
        given: overrides of its cells.
        config_dir: a folder of configuration beside conf/.
        dry_run: only say what would be run.
        why: only say why cells are missing.
        retry_failed: run failed cells, and those with a damaged record, again.
        accept_code: modules that may have been others; "all" for any.
    """

    own: tuple[str, ...]
    given: tuple[str, ...]
    config_dir: Path | None = None
    dry_run: bool = False
    why: bool = False
    retry_failed: bool = False
    accept_code: tuple[str, ...] = ()

    @property
    def due(self) -> tuple[str, ...]:
        """States of cells that are run."""
        return ("missing", "running", "failed", "unreadable") if self.retry_failed else ("missing", "running")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise LabError(f"kto-lab sweep: {message}. `kto-lab sweep --help` lists what it takes.")


def read(words: Sequence[str]) -> Request:
    """Read a command line.

    Raises:
        LabError: it has a flag that is not known, or a folder that is none.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for flag in FLAGS:
        name, _, value = flag.partition(" ")
        parser.add_argument(name, **({"action": "append", "default": []} if value else {"action": "store_true"}))
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("overrides", nargs="*")
    found = parser.parse_intermixed_args(list(words))
    folder = found.config_dir and Path(found.config_dir)
    if folder and not folder.is_dir():
        raise LabError(f"--config-dir {folder} is no folder.")
    return Request(
        own=tuple(word for word in found.overrides if word.startswith(OF_SWEEP)),
        given=tuple(word for word in found.overrides if not word.startswith(OF_SWEEP)),
        config_dir=folder or None,
        dry_run=found.dry_run,
        why=found.why,
        retry_failed=found.retry_failed,
        accept_code=tuple(found.accept_code),
    )
