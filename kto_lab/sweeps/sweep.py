"""`kto-lab sweep`: Hydra's multirun over the cells of a study, of which only those that are missing are run.

Hydra composes each cell and its launcher runs it, here or on a cluster; what is said here is which cells there are,
what each is called, and which are done. A cell's folder is named by its `run_id`, so two studies that share a cell
share its run.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import relpath
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.evaluation.measuring import find_metrics
from kto_lab.evaluation.metrics import learn
from kto_lab.quoting import quoted
from kto_lab.runs.lease import LEASE, Watch, read_owner
from kto_lab.runs.status import status
from kto_lab.sealed import DamagedError, set_aside, write_json
from kto_lab.sweeps.cell import clear_after_kill
from kto_lab.sweeps.composing import PLAN, Composer, Planned, opened
from kto_lab.sweeps.contrasts import check_metrics
from kto_lab.sweeps.estimates import Costs, at_once, finished_runs, told, totals
from kto_lab.sweeps.finished import FinishedRuns
from kto_lab.sweeps.launching import Launcher
from kto_lab.sweeps.live import LOOK_SECONDS, Live
from kto_lab.sweeps.manifest import STUDY, read_study
from kto_lab.sweeps.outcome import finish, name, tell
from kto_lab.sweeps.request import Request
from kto_lab.sweeps.search import is_asked, search, with_defaults
from kto_lab.sweeps.study import Cell, Study, cells_of, replaced_in_arms, scale_of, shown_at
from kto_lab.sweeps.wandb_names import naming


def sweep(
    request: Request,
    task: TaskFunction,
    *,
    config_dir: Path,
    published: Path | None = None,
    log_study: Callable[[DictConfig, Path], None],
) -> list[Planned]:
    """Run the cells of a study that are missing.

    Args:
        request: what the command line asks for.
        task: runs a composed cell.
        config_dir: conf/.
        published: a folder of published studies, whose cells are finished runs, too.
        log_study: is given the cells' logger and the study's folder when all is run.

    Raises:
        LabError: there is no study, a cell cannot be composed, or not every cell is done at the end.
    """
    # What is asked of the cells may fit no configuration but theirs.
    with opened(config_dir, with_defaults(request.own), more=request.config_dir) as (loader, config):
        return _sweep(request, task, loader, config, published, log_study)


def _sweep(
    request: Request,
    task: TaskFunction,
    loader: ConfigLoader,
    config: DictConfig,
    published: Path | None,
    log_study: Callable[[DictConfig, Path], None],
) -> list[Planned]:
    if config.get("study") is None:
        raise LabError("Say what to sweep: kto-lab sweep study=<name>; --help lists the studies.")
    study, given, due = study_of(config.study), request.given, request.due
    runs = Path(config.runs_dir)
    home = runs / "studies" / study.name
    finished = FinishedRuns(runs, published)
    composer = Composer(
        loader, config, own=request.own, kept=home / PLAN, finished=finished, accept_code=request.accept_code
    )
    check_own_metrics(study, given, composer)
    context = HydraContext(config_loader=loader, callbacks=Callback())  # type: ignore[arg-type] # it has the methods
    making = Making(config, study.name, scale_of(study, given), composer, context, task, home, due)
    only_says = request.dry_run or request.why
    console.stage(f"Study {study.name}", study.question)
    if is_asked(request.own):
        make = None if only_says else making.make
        found = search(study, given, config=config, context=context, task=task, plan=composer.plan, make=make, due=due)
        planned, ahead = found.planned, found.ahead
    else:
        for word, arms in replaced_in_arms(study, given).items():
            console.say(f"    {word} of the command line takes the place of what these arms set: {', '.join(arms)}")
        planned, ahead = [composer.plan(cell) for cell in cells_of(study, given)], []
        refuse_twins(planned)
        if not only_says:
            tell(planned)
            tell_accepted(planned, request.accept_code)
            making.make(planned, planned)
    if request.why:
        tell_why(planned, composer, finished)
    if request.dry_run:
        tell_cost(planned, ahead, due, runs, at_once(config.hydra.launcher))
    if only_says:
        tell_accepted(planned, request.accept_code)
        return planned
    # One cell's speaks for all.
    logger = composer.compose(planned[0].cell).logger
    try:
        log_study(logger, home)
    finally:
        finish(planned, home, making.problems)
    return planned


@dataclass(frozen=True)
class Making:
    """What it takes to run cells.

    Attributes:
        config: of the sweep.
        study: its name.
        scale: that it is swept at, if any.
        composer: of its cells.
        context: Hydra's.
        task: runs a composed cell.
        home: the study's folder.
        due: states of cells that are run.
        problems: what ended cells that had no word for it in their folder, as the launcher was told, by folder.
    """

    config: DictConfig
    study: str
    scale: str | None
    composer: Composer
    context: HydraContext
    task: TaskFunction
    home: Path
    due: Sequence[str]
    problems: dict[Path, str] = field(default_factory=dict)

    def make(self, cells: Sequence[Planned], every: Sequence[Planned]) -> None:
        """Run those of the cells that are due, after writing down `every` cell of the study."""
        self.composer.keep()
        write_json(self.home / STUDY, manifest(self.config.study, self.scale, every, self.home))
        states = {cell.run_id: status(cell.folder) for cell in cells}
        for cell in cells:
            if states[cell.run_id] == "done":
                clear_after_kill(cell.folder)
        todo = [cell for cell in cells if states[cell.run_id] in self.due]
        if not todo:
            return
        logger = self.composer.compose(todo[0].cell).logger
        launcher = Launcher(self.context, self.task, self.config)
        with Live([cell.folder for cell in every]):
            self.problems.update(launcher.launch(jobs(todo, self.study, logger)))
            # Once more, and not for ever: a cell whose owner died may be one that always dies.
            if again := left_by_others(todo):
                self.problems.update(launcher.launch(jobs(again, self.study, logger), len(todo)))


def left_by_others(cells: Sequence[Planned]) -> list[Planned]:
    """Those of the cells that another sweep had begun and has not finished. Waits while others are at work."""
    watch = Watch()
    begun = [cell for cell in cells if status(cell.folder) == "running"]
    while any(is_at_work(cell.folder, watch) for cell in begun):
        time.sleep(LOOK_SECONDS)
    return [cell for cell in begun if status(cell.folder) in ("running", "missing")]


def is_at_work(folder: Path, watch: Watch) -> bool:
    """Whether somebody alive holds the lease of a cell."""
    lease = folder / LEASE
    owner = read_owner(lease)
    return (
        owner is not None and not owner.is_dead_here() and not watch.is_stale(lease, owner.identity + str(owner.beat))
    )


def jobs(cells: Sequence[Planned], study: str, logger: DictConfig) -> list[list[str]]:
    """The overrides of each cell's job, with those that name it to its logger."""
    return [
        [
            *one.cell.overrides,
            *naming(logger, study=study, cell=one.cell, name=name(one.cell)),
            f"run_dir={quoted(one.folder)}",
        ]
        for one in cells
    ]


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


def check_own_metrics(study: Study, given: Sequence[str], composer: Composer) -> None:
    """See that metrics of `evaluation.metrics` which a study compares or chooses by have a better side.

    Raises:
        LabError: one has none.
    """
    shown = shown_at(vars(study), scale_of(study, given))
    if check_metrics(shown, study.name):
        # One cell's speak for all.
        own = find_metrics(composer.compose(cells_of(study, given)[0]).evaluation.metrics)
        learn([{metric.name: metric.as_dict() for metric in own}])
        check_metrics(shown, study.name)


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


def tell_accepted(planned: Sequence[Planned], accept_code: Sequence[str]) -> None:
    """Say which cells are runs of other code, where that is accepted."""
    if not accept_code:
        return
    accepted = [item for item in planned if item.accepted]
    modules = sorted({module for item in accepted for module in item.accepted})
    told = f": {', '.join(modules)}" if modules else ""
    console.say(f"    --accept-code: {len(accepted)} cells are finished runs of other code{told}")


def tell_why(planned: Sequence[Planned], composer: Composer, finished: FinishedRuns) -> None:
    """Say of each missing cell in what it differs from the finished run that is nearest to it."""
    tell(planned)
    for item in planned:
        if status(item.folder) == "missing":
            console.say(f"    missing  {item.run_id}  {name(item.cell)}")
            console.say(f"        {finished.why_missing(item.identity, composer.settings(item.cell))}")


def tell_cost(
    planned: Sequence[Planned], ahead: Sequence[Planned], due: Sequence[str], runs: Path, parallel: int
) -> None:
    """Say which cells there are, and what those cost that are to be run, as far as finished runs tell."""
    costs = Costs(finished_runs(runs))
    tell(planned)
    times = {item.run_id: told(costs, item.run_id, item.work) for item in planned}
    width = max(map(len, times.values()), default=0)
    for item in planned:
        console.say(f"    {status(item.folder):<10} {times[item.run_id]:<{width}}  {item.run_id}  {name(item.cell)}")
    if ahead:
        console.say(f"    At most {len(ahead)} cells more: which, depends on the results of these.")
    todo = [item for item in planned if status(item.folder) in due]
    for sentence in totals([costs.of(item.work) for item in [*todo, *ahead]], parallel):
        console.say(f"    {sentence}")


def manifest(study: DictConfig, scale: str | None, planned: Sequence[Planned], home: Path) -> dict[str, Any]:
    """What the report reads: the study as it is shown at a scale, and where each of its cells is."""
    content: Any = OmegaConf.to_container(study, resolve=False)
    shown = shown_at(content, scale)
    return {
        "study": content | shown,
        "scale": scale,
        "cells": [
            {
                "choices": item.cell.choices,
                "run_id": item.run_id,
                "folder": relpath(item.folder, home),
                **({"accepted_code": list(item.accepted)} if item.accepted else {}),
            }
            for item in planned
        ],
        "command": " ".join(["kto-lab", *sys.argv[1:]]),
        "contrasts_named": named(shown["contrasts"], planned, home),
    }


def named(contrasts: Sequence[Mapping[str, Any]], planned: Sequence[Planned], home: Path) -> list[dict[str, Any]]:
    """Each contrast with how many of the runs were finished when a sweep first found it, word by word as it is now."""
    try:
        before = read_study(home).named
    except DamagedError as error:
        set_aside(home / STUDY, error, "its contrasts count as named now")
        before = ()
    except LabError:
        before = ()
    finished = sum(status(item.folder) == "done" for item in planned)
    return [
        {"contrast": node, "finished": next((count for known, count in before if known == node), finished)}
        for node in contrasts
    ]
