"""A search in the place of a grid: `kto-lab sweep study=<name> hydra/sweeper=optuna`.

Hydra's plugin for Optuna proposes values. A trial is a proposal for one arm at one point of the grid; it is run as the
cells of a grid are, one per seed, and its value is the mean over them of a metric on the validation half of the
held-out prompts. So the report, which shows the other half, can choose among the trials (`choose`).

A trial's cells are ordinary cells: those that are done cost nothing. The sampler is seeded, so the same command asks
for the same trials and goes on where it was stopped; with more trials it goes on from the last.

The values that are searched are those that sweep on the command line, `seed` apart; `search.space` of the study, key to
values in Hydra's sweep syntax; and the intervals among the overrides of an arm. The study's `search` may also say
`metric`, `direction` and `trials`. What else there is to say are the plugin's own keys, `hydra.sweeper.*`, with the
defaults of `DEFAULTS`.
"""

import copy
import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.evaluation.measuring import Metric, find_metrics
from kto_lab.evaluation.metrics import DECLARED
from kto_lab.runs.scores import VALIDATION, scores_in
from kto_lab.runs.status import status
from kto_lab.sweeps.composing import Planned
from kto_lab.sweeps.study import ARM, SEED, Cell, Study, cells_of, key_of

OPTUNA = "optuna"
SWITCH = f"hydra/sweeper={OPTUNA}"
# Significant digits of a proposed value.
DIGITS = 4
# Of the plugin's keys, where the command line says nothing else. A file of our own cannot stand before the plugin's.
DEFAULTS = (
    "hydra.sweeper.direction=${oc.select:study.search.direction,maximize}",
    # Of each arm at each point of the grid.
    "hydra.sweeper.n_trials=${oc.select:study.search.trials,20}",
    # Proposed at once: more make use of a parallel launcher, and learn less from each other.
    "hydra.sweeper.n_jobs=1",
    # Share of those that may fail before the search stops.
    "hydra.sweeper.max_failure_rate=1.0",
    # Of the proposals.
    "hydra.sweeper.sampler.seed=0",
)


@dataclass(frozen=True)
class Asked:
    """The `search` of a study.

    Attributes:
        space: key to values in Hydra's sweep syntax, searched in every arm.
        metric: that a trial is judged by; it must have a score per prompt.
        direction: "maximize" or "minimize"; the sweeper's configuration reads it.
        trials: of each arm at each point of the grid; the sweeper's configuration reads it.
    """

    space: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "pass_rate"
    direction: str = "maximize"
    trials: int = 20


@dataclass(frozen=True)
class Point:
    """An arm at a point of the grid, where a search is made.

    Attributes:
        choices: what tells it from the others.
        cells: seed to cell, without the keys that are searched.
        space: key to values in Hydra's sweep syntax.
    """

    choices: dict[str, Any]
    cells: dict[Any, Cell]
    space: dict[str, str]


@dataclass
class Found:
    """What a search has asked for.

    Attributes:
        planned: the cells of all trials, each once.
        ahead: of a dry run, a cell for each that is still to be proposed, alike in all but the values.
    """

    planned: list[Planned] = field(default_factory=list)
    ahead: list[Planned] = field(default_factory=list)

    def add(self, cells: Sequence[Planned]) -> None:
        """Add the cells that are not there yet: a search may ask for the same values again."""
        known = {cell.run_id for cell in self.planned}
        self.planned += {cell.run_id: cell for cell in cells if cell.run_id not in known}.values()


class _NotRunError(Exception):
    """What comes next depends on cells that a dry run does not run."""


def is_asked(words: Sequence[str]) -> bool:
    """Whether a sweep searches."""
    return SWITCH in words


def with_defaults(words: Sequence[str]) -> list[str]:
    """The words of a sweep; of one that searches, behind the defaults of the search.

    Raises:
        LabError: it searches, and Optuna is not installed.
    """
    if is_asked(words) and importlib.util.find_spec(OPTUNA) is None:
        raise LabError(f"{SWITCH} needs an extra that is not installed: pip install 'kto-lab[search]'.")
    return [*(DEFAULTS if is_asked(words) else ()), *words]


def search(
    study: Study,
    given: Sequence[str],
    *,
    config: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    plan: Callable[[Cell], Planned],
    make: Callable[[Sequence[Planned], Sequence[Planned]], None] | None,
    due: Sequence[str],
) -> Found:
    """Search in every arm at every point of the grid.

    Args:
        study: what is searched.
        given: the command line without what is the sweep's own.
        config: of the sweep, with `hydra.sweeper`.
        context: Hydra's.
        task: runs a composed cell.
        plan: composes a cell.
        make: runs those of the first cells that are due, all cells so far being the second; None for a dry run.
        due: states of cells that are run.

    Raises:
        LabError: there is nothing to search, or a finished run has no score to judge it by.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    asked = asked_of(study, find_metrics(config.evaluation.metrics))
    found = Found()
    for point in points_of(study, given, asked):
        trials = _Trials(point, asked.metric, config.hydra.sweeper.n_trials, plan, make, due, found)
        with tempfile.TemporaryDirectory() as folder:
            # The plugin ends by writing its best trial somewhere; the runs and the report tell it, too.
            own = copy.deepcopy(config)
            with read_write(own.hydra):
                own.hydra.sweep.dir = folder
            sweeper: Any = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=task, config=own)
            # Its own launcher would run a trial as one job.
            sweeper.sweeper.launcher = trials
            try:
                sweeper.sweep([f"{key}={values}" for key, values in point.space.items()])
            except _NotRunError:
                trials.look_ahead()
            except ValueError as error:
                # Optuna's: at the end, where there is no best trial because all failed; else of values that do not fit.
                if trials.values or not trials.asked:
                    raise LabError(f"Optuna cannot search {trials.where()}: {error}") from error
        trials.tell(config.hydra.sweeper.direction)
    return found


def asked_of(study: Study, own: Sequence[Metric] = ()) -> Asked:
    """The `search` of a study, checked.

    Args:
        study: what is searched.
        own: the metrics of `evaluation.metrics`.

    Raises:
        LabError: a key is unknown, a value of the space does not sweep, the metric has no score per prompt, or the
            direction leads to its worse side.
    """
    where = f"study.search of {study.name}"
    if unknown := sorted(study.search.keys() - Asked.__dataclass_fields__.keys()):
        raise LabError(f"{where} has a key {unknown[0]!r}. Keys are {', '.join(Asked.__dataclass_fields__)}.")
    asked = Asked(**study.search)
    for key, values in asked.space.items():
        if not _parsed(f"{key}={values}", f"{where}.space").is_sweep_override():
            raise LabError(f"{where}.space has one value for {key}: {values}. Name several, or an interval.")
    fitting = {metric.name: metric for metric in (*DECLARED.values(), *own) if metric.per_prompt}
    if asked.metric not in fitting:
        raise LabError(
            f"{where}.metric is {asked.metric!r}. A trial is judged by the scores of validation prompts; metrics that "
            f"have one for each are {', '.join(fitting)}, and those that evaluation.metrics names."
        )
    better = {"up": "maximize", "down": "minimize", None: study.search.get("direction")}[fitting[asked.metric].better]
    if asked.direction != better:
        raise LabError(
            f"{where}.direction is {asked.direction}, and the metric {asked.metric} has its better side elsewhere or "
            f"nowhere. Write direction: {better or 'maximize, or minimize'}."
        )
    return asked


def points_of(study: Study, given: Sequence[str], asked: Asked) -> list[Point]:
    """The arms at the points of the grid, and what is searched there.

    Raises:
        LabError: an override cannot be parsed, or an arm has nothing to search.
    """
    line = [_parsed(text, "the command line") for text in given]
    swept = {key_of(one): _values(one) for one in line if one.is_sweep_override()}
    swept.pop(SEED, None)
    fixed = {key_of(one): text for text, one in zip(given, line, strict=True)}
    fixed = {key: text for key, text in fixed.items() if key not in swept}
    arms = {arm: [_parsed(text, f"the arm {arm} of {study.name}") for text in own] for arm, own in study.arms.items()}
    intervals = {arm: {key_of(one): _values(one) for one in own if _is_interval(one)} for arm, own in arms.items()}
    discrete = {arm: [str(one.input_line) for one in own if not _is_interval(one)] for arm, own in arms.items()}
    points: dict[str, Point] = {}
    for cell in cells_of(replace(study, arms=discrete), list(fixed.values())):
        arm, seed = cell.choices[ARM], cell.choices[SEED]
        said = {key: str(values) for key, values in asked.space.items()} | intervals[arm] | swept
        # One value on the command line ends the search for it.
        space = {key: values for key, values in said.items() if key not in fixed}
        if not space:
            raise LabError(
                f"There is nothing to search in the arm {arm} of {study.name}. Name values on the command line, such "
                "as 'optimization.learning_rate=tag(log,interval(1e-5,1e-3))', or in the study's search.space."
            )
        # What is searched takes the place of what the study says of the key.
        choices = {key: value for key, value in cell.choices.items() if key != SEED and key not in space}
        texts = tuple(text for text in cell.overrides if key_of(_parsed(text, "a cell")) not in space)
        point = points.setdefault(repr(choices), Point(choices, {}, space))
        point.cells[seed] = Cell(choices | {SEED: seed}, texts)
    return list(points.values())


class _Trials:
    """The trials of one point. Stands where the plugin has a launcher, and runs a trial as its cells."""

    def __init__(
        self,
        point: Point,
        metric: str,
        total: int,
        plan: Callable[[Cell], Planned],
        make: Callable[[Sequence[Planned], Sequence[Planned]], None] | None,
        due: Sequence[str],
        found: Found,
    ) -> None:
        self.point, self.metric, self.total = point, metric, total
        self.plan, self.make, self.due, self.found = plan, make, due, found
        self.asked: list[list[Planned]] = []
        # Words of a trial to its value.
        self.values: dict[str, float] = {}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the trials that are proposed at once, and return their values."""
        proposed = [tuple(map(_rounded, words)) for words in job_overrides]
        batch = [[self.plan(_cell_of(cell, words)) for cell in self.point.cells.values()] for words in proposed]
        self.asked += batch
        cells = [cell for trial in batch for cell in trial]
        self.found.add(cells)
        if self.make is not None:
            self.make(cells, self.found.planned)
        elif any(status(cell.folder) in self.due for cell in cells):
            raise _NotRunError
        return [
            self._judged(words, trial, initial_job_idx + place + 1)
            for place, (words, trial) in enumerate(zip(proposed, batch, strict=True))
        ]

    def look_ahead(self) -> None:
        """Count the cells of trials that were not proposed yet."""
        self.found.ahead += self.asked[-1] * (self.total - len(self.asked))

    def tell(self, direction: Any) -> None:
        """Say which trial is best."""
        if self.values:
            order = max if getattr(direction, "name", direction) == "maximize" else min
            best = order(self.values, key=self.values.__getitem__)
            console.say(f"    best of {self.where()}: {best}: {self.metric} {self.values[best]:.3f} (validation)")

    def _judged(self, words: Sequence[str], cells: Sequence[Planned], number: int) -> JobReturn:
        about = f"{self.where()}: trial {number} of {self.total}: {' '.join(words)}"
        if left := [cell for cell in cells if status(cell.folder) != "done"]:
            reason = f"{about}: {len(left)} of {len(cells)} cells are not done; see {left[0].folder}"
            console.say(f"    {reason}")
            return _returned(words, JobStatus.FAILED, LabError(reason))
        value = statistics.fmean(map(self._score, cells))
        self.values[" ".join(words)] = value
        console.say(f"    {about}: {self.metric} {value:.3f} (validation)")
        return _returned(words, JobStatus.COMPLETED, value)

    def _score(self, cell: Planned) -> float:
        """The mean over the validation prompts."""
        scores = scores_in(cell.folder.parent, VALIDATION)(cell.folder.name, self.metric)
        if not scores:
            raise LabError(
                f"The run {cell.folder} keeps no {self.metric} of any validation prompt, so a trial cannot be judged "
                "by it. Evaluate answers (evaluation=quick), or set study.search.metric to a metric that they have."
            )
        return statistics.fmean(scores.values())

    def where(self) -> str:
        """The arm and the point of the grid."""
        return " ".join(f"{key}={value}" for key, value in self.point.choices.items())


def _rounded(word: str) -> str:
    """An override with a value that fits a table: more digits than these make no other run."""
    override = _parsed(word, "a trial")
    value = override.value()
    return f"{override.get_key_element()}={float(f'{value:.{DIGITS}g}')}" if isinstance(value, float) else word


def _cell_of(cell: Cell, words: Sequence[str]) -> Cell:
    """A cell with the values of a trial."""
    values = {one.get_key_element(): one.value() for one in (_parsed(word, "a trial") for word in words)}
    before = {key: value for key, value in cell.choices.items() if key != SEED}
    return Cell(before | values | {SEED: cell.choices[SEED]}, (*cell.overrides, *words))


def _returned(words: Sequence[str], state: JobStatus, value: Any) -> JobReturn:
    result = JobReturn(overrides=list(words), status=state)
    result.return_value = value
    return result


def _parsed(text: str, where: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise LabError(f"{where}: {str(error).splitlines()[0]}") from error


def _values(override: Override) -> str:
    """What stands behind the "=" of an override, as it was written."""
    return str(override.input_line).partition("=")[2]


def _is_interval(override: Override) -> bool:
    return override.is_sweep_override() and not override.is_discrete_sweep()
