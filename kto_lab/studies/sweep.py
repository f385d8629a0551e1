"""`kto-lab sweep`: Hydra's multirun over the cells of a study, of which only those that are missing are run.

Hydra composes each cell and its launcher runs it, here or on a cluster; what is said here is which cells there are,
what each is called, and which are done. A cell's folder is named by its `run_id`, so two studies that share a cell
share its run.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.files import write_json
from kto_lab.studies.cell import FAILURE, status
from kto_lab.studies.frame import STUDY
from kto_lab.studies.identity import run_id
from kto_lab.studies.live import Live
from kto_lab.studies.study import Cell, Study, cells_of

# Overrides of the sweep itself, which no cell has.
OF_SWEEP = ("hydra/", "hydra.", "study=", "runs_dir=")


@dataclass(frozen=True)
class Planned:
    """A cell that Hydra could compose.

    Attributes:
        cell: its choices and overrides.
        run_id: its identity.
        folder: where its run is.
    """

    cell: Cell
    run_id: str
    folder: Path


def sweep(
    words: Sequence[str], task: TaskFunction, *, config_dir: Path, dry_run: bool, retry_failed: bool
) -> list[Planned]:
    """Run the cells of a study that are missing.

    Args:
        words: the command line, as Hydra takes it.
        task: runs a composed cell.
        config_dir: conf/.
        dry_run: only say what would be run.
        retry_failed: run failed cells, and those with a damaged record, again.

    Raises:
        LabError: there is no study, a cell cannot be composed, or not every cell is done at the end.
    """
    arguments = get_args_parser().parse_intermixed_args(list(words))
    search_path = create_config_search_path(str(config_dir))
    if arguments.config_dir:
        folder = Path(arguments.config_dir)
        if not folder.is_dir():
            raise LabError(f"--config-dir {folder} is no folder.")
        # Hydra wants its schema last.
        search_path.prepend("command-line", f"file://{folder.resolve()}", SearchPathQuery(provider="schema"))
    hydra = Hydra.create_main_hydra2(task_name="kto-lab", config_search_path=search_path)
    # What is asked of the cells may fit no configuration but theirs.
    own = [word for word in arguments.overrides if word.startswith(OF_SWEEP)]
    config = hydra.compose_config("train", own, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    if config.get("study") is None:
        raise LabError("Say what to sweep: kto-lab sweep study=<name>; --help lists the studies.")
    study = study_of(config.study)
    runs = Path(config.runs_dir)
    given = [word for word in arguments.overrides if word not in own]
    planned = [plan(cell, hydra, config, runs) for cell in cells_of(study, given)]
    refuse_twins(planned)
    before = {cell.run_id: status(cell.folder) for cell in planned}
    due = ("missing", "running", "failed", "unreadable") if retry_failed else ("missing", "running")
    todo = [cell for cell in planned if before[cell.run_id] in due]
    console.stage(f"Study {study.name}", study.question)
    tell(planned, before)
    if dry_run:
        return planned
    home = runs / "studies" / study.name
    write_json(home / STUDY, manifest(config.study, planned, home))
    if todo:
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
        with Live([cell.folder for cell in planned]):
            launcher.launch([job(cell) for cell in todo], initial_job_idx=0)
    finish(planned, home)
    return planned


def plan(cell: Cell, hydra: Hydra, config: DictConfig, runs: Path) -> Planned:
    """Compose a cell and give it its identity."""
    composed = hydra.config_loader.load_sweep_config(config, list(cell.overrides))
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in ("study", "hydra")])
    identity = run_id(own)
    return Planned(cell, identity, runs / "cells" / identity)


def job(planned: Planned) -> list[str]:
    """The overrides of a cell's job."""
    return [*planned.cell.overrides, f"run_dir='{planned.folder}'"]


def study_of(node: DictConfig) -> Study:
    """The study of a `study` node.

    Raises:
        LabError: a key is missing or unknown.
    """
    # Not resolved: an interpolation is of the cells' configuration.
    values: Any = OmegaConf.to_container(node, resolve=False)
    try:
        return Study(**values)
    except TypeError as error:
        raise LabError(f"The study does not fit: {str(error).partition(') ')[2] or error}.") from error


def refuse_twins(planned: Sequence[Planned]) -> None:
    """LabError where two cells are the same run: the grid varies something that changes nothing."""
    seen: dict[str, Cell] = {}
    for item in planned:
        if item.run_id in seen:
            raise LabError(
                f"Two cells of the study are the same run: {name(seen[item.run_id])}; {name(item.cell)}. Something in "
                "the grid changes nothing there. Give that arm a grid of its own."
            )
        seen[item.run_id] = item.cell


def name(cell: Cell) -> str:
    """A cell by its choices."""
    return " ".join(f"{key}={value}" for key, value in cell.choices.items())


def tell(planned: Sequence[Planned], before: dict[str, str]) -> None:
    """Say which cells there are, and what is done."""
    counts = {state: list(before.values()).count(state) for state in sorted(set(before.values()))}
    console.say(f"    {len(planned)} cells: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for item in planned:
        console.say(f"    {before[item.run_id]:<10} {item.run_id}  {name(item.cell)}")


def manifest(study: DictConfig, planned: Sequence[Planned], home: Path) -> dict[str, Any]:
    """What the report reads: the study, and where each of its cells is."""
    return {
        "study": OmegaConf.to_container(study, resolve=False),
        "cells": [
            {
                "choices": item.cell.choices,
                "run_id": item.run_id,
                "folder": str(Path("..") / ".." / item.folder.relative_to(home.parent.parent)),
            }
            for item in planned
        ],
        "command": " ".join(["kto-lab", *sys.argv[1:]]),
    }


def finish(planned: Sequence[Planned], home: Path) -> None:
    """Say how it ended.

    Raises:
        LabError: not every cell is done; the message lists those that are not.
    """
    after = {item.run_id: status(item.folder) for item in planned}
    left = [item for item in planned if after[item.run_id] != "done"]
    console.say(f"    {len(planned) - len(left)} of {len(planned)} cells are done; {home / STUDY} lists them")
    if left:
        lines = [
            f"  {after[item.run_id]}: {name(item.cell)}\n      {item.folder}"
            + (f"/{FAILURE}" if after[item.run_id] == "failed" else "")
            for item in left
        ]
        raise LabError(
            f"{len(left)} of {len(planned)} cells are not done.\n"
            + "\n".join(lines)
            + "\nRun the same command again to go on; --retry-failed tries failed ones again."
        )
