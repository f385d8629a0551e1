"""What the cells of a study that are still to be run will cost, told from runs that are finished.

A cell is compared with the finished runs in four ways, from the closest to the coarsest, and the first that finds a run
is used (`WAYS`). Its seconds are the median over the runs that were found; where they saw another number of training
examples, their training is scaled by it. Runs of other data, another model, evaluation or hardware say nothing of a
cell: then its cost is unknown, and is said to be.

A run that was resumed has the timings of the process that finished it, so it counts for less than it took.
"""

import heapq
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from omegaconf import DictConfig

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.hashing import content_hash
from kto_lab.runs.record import RECORD, read_record

# In the words of the dry run: a finished run has ...
WAYS = ("the same settings", "the same work", "the same loss, model and data", "the same model and data")
# From this way on a finished run may have seen another number of examples.
SCALED_FROM = 2
UNKNOWN = "unknown"
# What does not change the cost of a run: where it is, and what only changes numbers.
WITHOUT_COST = ("seed", "runs_dir", "run_dir", "logger")
OF_LENGTH = ("batch_size", "epochs", "max_steps", "micro_batch_tokens", "gradient_checkpointing")


@dataclass(frozen=True)
class Work:
    """What a run has to do, as far as that tells its cost.

    Attributes:
        keys: one a way of `WAYS`; runs with the same key are alike in that way.
        batch_size: examples (pairs, for a loss of pairs) an optimiser step.
        epochs: passes over the training data.
        max_steps: where it stops, or None.
    """

    keys: tuple[str, ...]
    batch_size: int
    epochs: float
    max_steps: int | None

    def units(self, available: int) -> float:
        """Examples (pairs) that the run sees where so many are available."""
        seen = self.epochs * available
        return seen if self.max_steps is None else min(seen, self.max_steps * self.batch_size)


@dataclass(frozen=True)
class Finished:
    """What a finished run cost.

    Attributes:
        run_id: of the run.
        work: what it did.
        seconds: of all stages.
        training: seconds of the training alone.
        units: examples (pairs) that it was trained on, repeats counted.
        available: examples (pairs) that there were.
        memory: peak of the process, bytes.
        cuda: peak of its GPUs, bytes; None without one.
        gpus: how many GPUs it used.
        hardware: in words.
    """

    run_id: str
    work: Work
    seconds: float
    training: float
    units: int
    available: int
    memory: int
    cuda: int | None
    gpus: int
    hardware: str


@dataclass(frozen=True)
class Cost:
    """What a cell will cost.

    Attributes:
        seconds: the median over the finished runs that it is told from.
        low: the least of them.
        high: the most of them.
        memory: the highest peak of the process, bytes.
        cuda: the highest peak of the GPUs, bytes; None without one.
        gpus: how many GPUs it takes.
        runs: how many finished runs it is told from.
        way: how they are like the cell: a place in `WAYS`.
        hardware: on which they ran.
    """

    seconds: float
    low: float
    high: float
    memory: int
    cuda: int | None
    gpus: int
    runs: int
    way: int
    hardware: tuple[str, ...]


def work_of(config: Mapping[str, Any]) -> Work:
    """What a run of this configuration has to do.

    Args:
        config: resolved, as plain values; that of a record will do.
    """
    optimization, loss = config["optimization"], config["loss"]
    parts = {key: content_hash(_portable(value)) for key, value in config.items() if key not in WITHOUT_COST}
    data = [parts[key] for key in ("model", "adapter", "feedback", "evaluation", "trainer")]
    of_loss = [*data, loss.get("function"), loss.get("reference_point")]
    length = [optimization[key] for key in OF_LENGTH]
    # Without an end of its own, the training is as long as the corruption leaves examples.
    corruption = parts["corruption"] if optimization["max_steps"] is None else None
    keys = [parts, [of_loss, length, parts["lengths"], corruption], of_loss, data]
    return Work(
        keys=tuple(content_hash(key) for key in keys),
        batch_size=optimization["batch_size"],
        epochs=optimization["epochs"],
        max_steps=optimization["max_steps"],
    )


def finished_runs(runs: Path) -> list[Finished]:
    """The finished runs of all studies in a folder of runs; a record that cannot be read is passed over."""
    return [run for file in sorted(runs.glob(f"cells/*/{RECORD}")) if (run := _read(file)) is not None]


class Costs:
    """Finished runs, by what they are like."""

    def __init__(self, finished: Sequence[Finished]) -> None:
        """Sort them."""
        self._by_key: list[dict[str, list[Finished]]] = [defaultdict(list) for _ in WAYS]
        self._by_id = {run.run_id: run for run in finished}
        for run in finished:
            for runs, key in zip(self._by_key, run.work.keys, strict=True):
                runs[key].append(run)

    def taken(self, run_id: str) -> float | None:
        """The seconds that a run took; None if it is not finished."""
        run = self._by_id.get(run_id)
        return None if run is None else run.seconds

    def of(self, work: Work) -> Cost | None:
        """The cost of a cell; None where no finished run is like it."""
        for way, (runs, key) in enumerate(zip(self._by_key, work.keys, strict=True)):
            if key in runs:
                return _cost(work, runs[key], way)
        return None


def told(costs: Costs, run_id: str, work: Work) -> str:
    """The seconds that a cell took, or will take, in words."""
    if (taken := costs.taken(run_id)) is not None:
        return console.duration(taken)
    cost = costs.of(work)
    return UNKNOWN if cost is None else f"~ {console.duration(cost.seconds)}"


def at_once(launcher: DictConfig) -> int:
    """How many cells a launcher of joblib or submitit runs at a time; 1 for any other."""
    return max(launcher.get("n_jobs") or launcher.get("array_parallelism") or 1, 1)


def totals(costs: Sequence[Cost | None], at_once: int) -> Iterator[str]:
    """What the cells that are to be run cost together, in sentences.

    Args:
        costs: one per cell.
        at_once: how many cells the launcher runs at a time.
    """
    known = [cost for cost in costs if cost is not None]
    if lost := len(costs) - len(known):
        yield f"The cost of {lost} of {len(costs)} cells is unknown: no finished run like it."
    if not known:
        return
    seconds, low, high = (sum(getattr(cost, key) for cost in known) for key in ("seconds", "low", "high"))
    spread = f" (from {console.duration(low)} to {console.duration(high)})" if high > low else ""
    yield f"Time of {len(known)} cells: about {console.duration(seconds)}{spread}, one after another."
    if (parallel := min(at_once, len(known))) > 1:
        taken = _side_by_side([cost.seconds for cost in known], parallel)
        yield f"With {parallel} at a time, as this launcher has them: {console.duration(taken)} at best."
    hours = sum(cost.seconds * cost.gpus for cost in known) / 3600
    yield f"GPU-hours: {hours:.1f}." if hours else "GPU-hours: 0; these runs were on CPUs."
    cuda = max((cost.cuda or 0 for cost in known), default=0)
    yield f"Peak memory of one run: {gigabytes(max(cost.memory for cost in known))}" + (
        f", and {gigabytes(cuda)} on its GPUs." if cuda else "."
    )
    for way, count in sorted(Counter(cost.way for cost in known).items()):
        runs = [cost.runs for cost in known if cost.way == way]
        few = f"{min(runs)}" if min(runs) == max(runs) else f"{min(runs)} to {max(runs)}"
        scaled = "; training scaled by the number of examples" if way >= SCALED_FROM else ""
        yield f"{count} of them from finished runs with {WAYS[way]} ({few} each{scaled})."
    yield "Those ran on " + "; ".join(sorted({name for cost in known for name in cost.hardware})) + "."


def gigabytes(size: int) -> str:
    """Bytes as a person says them."""
    return f"{size / 1e9:.1f} GB"


def _cost(work: Work, runs: Sequence[Finished], way: int) -> Cost:
    seconds = [run.seconds if way < SCALED_FROM else _scaled(work, run) for run in runs]
    return Cost(
        seconds=statistics.median(seconds),
        low=min(seconds),
        high=max(seconds),
        memory=max(run.memory for run in runs),
        cuda=max((run.cuda for run in runs if run.cuda is not None), default=None),
        gpus=max(run.gpus for run in runs),
        runs=len(runs),
        way=way,
        hardware=tuple(sorted({run.hardware for run in runs})),
    )


def _side_by_side(seconds: Sequence[float], places: int) -> float:
    """How long cells take that are begun in their order, each as soon as a place is free."""
    ends = [0.0] * places
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def _scaled(work: Work, run: Finished) -> float:
    """The seconds of a run, had it seen as many examples as `work` will."""
    return run.seconds + run.training * (work.units(run.available) / run.units - 1)


def _read(file: Path) -> Finished | None:
    try:
        record = read_record(file)
        training, machine = record["training"], record["environment"]
        trainer, cpu = record["config"]["trainer"], machine["cpu"]
        names = machine["gpus"] if record["peak_memory"]["cuda"] is not None else []
        gpus = 0 if trainer["accelerator"] == "cpu" or not names else trainer["devices"] * trainer["num_nodes"]
        return Finished(
            run_id=record["run_id"],
            work=work_of(record["config"]),
            seconds=sum(record["timings"].values()),
            training=record["timings"]["training"],
            units=training["units_seen"],
            available=training["units_available"],
            memory=record["peak_memory"]["process"],
            cuda=record["peak_memory"]["cuda"] if gpus else None,
            gpus=gpus,
            hardware=f"{gpus} x {names[0]}" if gpus else f"{cpu['model']} ({cpu['threads']} threads)",
        )
    except (LabError, KeyError, TypeError, AttributeError):
        return None


def _portable(value: Any) -> Any:
    """Values with paths as their last part: a record has them relative to its own folder."""
    if isinstance(value, Mapping):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(inner) for inner in value]
    return PurePosixPath(value).name if isinstance(value, str) and "/" in value else value
