"""The records of a study as one pandas frame: one row per cell, whatever became of it.

Columns of the frame:

| column                        | content                                                                             |
|-------------------------------|-------------------------------------------------------------------------------------|
| the choices                   | what tells cells apart, as `arm`, `corruption.rate`: all columns before `seed`      |
| `seed`                        | of the run                                                                          |
| `status`, `message`           | done, failed, running, unreadable or missing; and why it failed or cannot be read   |
| `run_id`, `folder`            | of the run                                                                          |
| `accepted_code`               | modules that were others when it was made than the sweep has, which was accepted    |
| a metric                      | of the trained policy; `_low`, `_high` (95 %) and `_n` behind its name              |
| a metric and `_base`          | of the base policy, with the same ends                                              |
| a metric and `_difference`    | trained - base, paired by prompt, with the same ends; `_detectable` is the smallest |
| `seconds`                     | of all stages; `seconds.training` and so on of each                                 |
| `steps`, `tokens_seen`, ...   | of the training                                                                     |
| `peak_memory`                 | of the process, bytes; `peak_memory_cuda` of the devices                            |
| `data.`, `config.` and others | all else that the record holds, by its dotted place                                 |

Metrics of a group are `groups.<group>.<metric>`, those of lm-eval `<task>.<metric>`. What a cell lacks is NaN.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import bounds, learn
from kto_lab.reports.comparisons import Mean, Outcome, mean_over_seeds
from kto_lab.reports.record_columns import Columns, Found
from kto_lab.runs.record import find_record
from kto_lab.runs.scores import Scores
from kto_lab.runs.status import FAILURE, status
from kto_lab.sealed import read_json
from kto_lab.statistics import Estimate, constant
from kto_lab.sweeps.manifest import read_study

SEED = "seed"
DONE = "done"
UNREADABLE = "unreadable"
# Of cells that a search chose: what of their setting lies on the edge of what was tried.
EDGES, EDGE_BREAK = "edges", ", "
BOOKKEEPING = (SEED, "status", "message", "run_id", "accepted_code", "folder")
# Columns, each with the plain values of some rows.
Rows: TypeAlias = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Group:
    """Cells that differ by their seed alone, looked at by one metric.

    Attributes:
        mean: of the metric over the seeds that have it.
        outcomes: seed to outcome, of those.
        planned: how many cells there are.
        others: status to count, of the cells that have no value; a finished run without one is "not measured".
        prompts: fewest and most prompts behind a value, or None.
        runs: the run_id of each cell.
        edges: of a setting that a search chose, what lies on the edge of what was tried: "loss.beta=5".
    """

    mean: Mean
    outcomes: Mapping[int, Outcome]
    planned: int
    others: Mapping[str, int]
    prompts: tuple[int, int] | None
    runs: frozenset[str] = frozenset()
    edges: Sequence[str] = ()

    @property
    def numbers(self) -> tuple[tuple[int, float, bytes], ...]:
        """All outcomes, to tell whether another group has the very same."""
        return tuple(
            (seed, one.value, b"" if one.scores is None else one.scores.numbers.tobytes())
            for seed, one in sorted(self.outcomes.items())
        )


def load(folder: Path | str) -> pd.DataFrame:
    """The cells of a study, one per row, in the order of the sweep; see the module for the columns.

    Raises:
        LabError: `folder` holds no study, or its records disagree on which side of a metric is better.
    """
    study = read_study(Path(folder))
    names = list(dict.fromkeys(key for cell in study.cells for key in cell["choices"] if key != SEED))
    shapes = Columns({*names, *BOOKKEEPING})
    declared: list[Mapping[str, Any]] = []
    rows = [_row(f"{study.folder}/{cell['folder']}", cell, shapes, declared) for cell in study.cells]
    learn(declared)
    every = dict.fromkeys([*names, *BOOKKEEPING, *(name for shape in shapes.shapes for name in shape)])
    columns = {name: place for place, name in enumerate(every)}
    # By columns, as pandas looks at them.
    table = np.full((len(columns), len(rows)), np.nan, dtype=object)
    for place, (told, _) in enumerate(rows):
        for name, value in told.items():
            table[columns[name], place] = value
    for number, shape in enumerate(shapes.shapes):
        members = [place for place, (_, found) in enumerate(rows) if found is not None and found.shape == number]
        block = np.empty((len(members), len(shape)), dtype=object)
        block[:] = [found.values for _, found in rows if found is not None and found.shape == number]
        table[np.ix_([columns[name] for name in shape], members)] = block.T
    # Gathered as objects and inferred: a choice that only some arms have must not turn whole numbers into floats.
    # Copied, so that columns of a kind lie together: a part of some hundred columns is then taken at once.
    return pd.DataFrame(table.T, columns=list(columns), dtype=object).infer_objects().copy()


def choices(frame: pd.DataFrame) -> list[str]:
    """The choices of a study, its seed apart: the columns before `seed`."""
    return [str(name) for name in frame.columns[: frame.columns.get_loc(SEED)]]


def grouped(frame: pd.DataFrame, keys: Sequence[str], what: str) -> dict[tuple[Any, ...], Rows]:
    """The cells by their values of some choices, so that those of one group differ by their seed alone.

    Args:
        frame: from `load`.
        keys: choices.
        what: asks, for messages: "table loss_by_noise".

    Returns:
        Values of `keys` to rows, in the order of the frame; None for a choice that a cell does not have.

    Raises:
        LabError: there is no such choice, or another choice varies as well and would be averaged over.
    """
    have = choices(frame)
    for key in keys:
        if key not in have:
            raise LabError(f"{what}: {key!r} is no choice of this study. Choices are {', '.join(have)}.")
    values = [tuple(map(plain, row)) for row in zip(*(frame[key].tolist() for key in keys), strict=True)]
    members: dict[tuple[Any, ...], list[int]] = {}
    for place, value in enumerate(values):
        members.setdefault(value, []).append(place)
    columns = rows_of(frame)
    groups: dict[tuple[Any, ...], Rows] = {
        value: {name: [column[place] for place in places] for name, column in columns.items()}
        for value, places in members.items()
    }
    for value, part in groups.items():
        if len(set(part[SEED])) < len(part[SEED]):
            varying = [key for key in have if key not in keys and len(set(part[key])) > 1]
            named = ", ".join(f"{key}={one}" for key, one in zip(keys, value, strict=True))
            raise LabError(
                f"{what}: cells with {named} also differ by {', '.join(varying) or 'nothing but their place'}. They "
                "are not averaged: name that choice, too, or sweep it in a study of its own."
            )
    return groups


def measured(part: Rows, metric: str, scores: Scores | None, what: str) -> Group:
    """One metric of cells that differ by their seed alone.

    Args:
        part: rows of a frame, from `grouped` or `rows_of`.
        metric: a column.
        scores: of single prompts; None leaves them out.
        what: asks, for messages.

    Raises:
        LabError: the column is no metric.
    """
    outcomes: dict[int, Outcome] = {}
    others: dict[str, int] = {}
    planned = len(part[SEED])
    values = part.get(metric, [None] * planned)
    own = _own(part, metric)
    for place, (value, state, seed, run) in enumerate(
        zip(values, part["status"], part[SEED], part["folder"], strict=True)
    ):
        if value is None:
            reason = "not measured" if state == DONE else state
            others[reason] = others.get(reason, 0) + 1
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LabError(f"{what}: {metric} is no metric; it holds {value!r}.")
        outcomes[int(seed)] = Outcome(float(value), scores(run, metric) if scores else None, own[place])
    counts = [int(n) for n in part.get(f"{metric}_n", ()) if n is not None]
    return Group(
        mean=mean_over_seeds(list(outcomes.values()), bounds(metric)),
        outcomes=outcomes,
        planned=planned,
        others=others,
        prompts=(min(counts), max(counts)) if counts else None,
        runs=frozenset(part["run_id"]),
        edges=list(dict.fromkeys(edge for cell in part.get(EDGES, ()) if cell for edge in cell.split(EDGE_BREAK))),
    )


def base_policy(frame: pd.DataFrame, metric: str) -> Group | None:
    """The base policy, as the runs of a frame measured it: for a row of a table, or a line across a figure.

    Args:
        frame: from `load`, or a part of it.
        metric: of the trained policy: "pass_rate".

    Returns:
        Its value with the interval over its prompts: it has no seeds, and one measurement speaks for all. None where no
        run measured it, or runs start from policies that differ.
    """
    ends = [f"{metric}_base{end}" for end in ("", "_low", "_high", "_n")]
    if ends[0] not in frame:
        return None
    found = frame.loc[frame[ends[0]].notna(), [name for name in (SEED, "run_id", *ends) if name in frame]]
    values = found[ends[0]].to_numpy(dtype=float)
    if not len(values) or not constant(values):
        return None
    low, high, n = (plain(found[end].iloc[0]) if end in found else None for end in ends[1:])
    value = float(values[0])
    own = Estimate(value, low, high, int(n or 0))
    return Group(
        mean=mean_over_seeds([Outcome(value, None, own)], bounds(metric)),
        outcomes={int(found[SEED].iloc[0]): Outcome(value, None, own)},
        planned=1,
        others={},
        prompts=(own.n, own.n) if own.n else None,
    )


def about_code(frame: pd.DataFrame) -> list[str]:
    """A sentence on runs that were made by other code than the sweep has, which was accepted; none without any."""
    of_runs = [str(modules) for modules in frame["accepted_code"].tolist() if isinstance(modules, str)]
    if not of_runs:
        return []
    modules = sorted({module for one in of_runs for module in one.split()})
    made = "run was" if len(of_runs) == 1 else "runs were"
    return [f"{len(of_runs)} {made} made by another version of the code, in {', '.join(modules)}, which was accepted."]


def rows_of(frame: pd.DataFrame) -> Rows:
    """The rows of a frame as lists of plain values: to take small parts of a frame itself takes long."""
    return {str(name): list(map(plain, frame[name].tolist())) for name in frame.columns}


def of_metrics(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """What a table or figure of these metrics needs of a frame: taking parts of some hundred columns would be slow."""
    ends = ("", "_low", "_high", "_n")
    wanted = [*choices(frame), *BOOKKEEPING, EDGES, *(f"{metric}{end}" for metric in metrics for end in ends)]
    return frame[[name for name in dict.fromkeys(wanted) if name in frame]]


def check_metric(frame: pd.DataFrame, metric: str, what: str) -> None:
    """See that a metric has a value in some cell, where some cell is done.

    Raises:
        LabError: it has none; the message lists those that have.
    """
    if (frame["status"] == DONE).any() and (metric not in frame or frame[metric].isna().all()):
        have = [str(name)[: -len("_n")] for name in frame.columns if str(name).endswith("_n")]
        named = ", ".join(name for name in have if not name.startswith("groups."))
        raise LabError(
            f"{what}: no finished run has the metric {metric!r}. There are {named}; costs such as seconds, too."
        )


def plain(value: Any) -> Any:
    """A value of a frame as Python's own: None for what is missing, a list as text, a whole float as it is."""
    kind = type(value)
    if kind is float:
        return None if value != value else value
    if kind is str or kind is int or kind is bool:
        return value
    if isinstance(value, list | dict):
        return json.dumps(value)
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _row(
    run: str, cell: Mapping[str, Any], shapes: Columns, declared: list[Mapping[str, Any]]
) -> tuple[dict[str, Any], Found | None]:
    """What is told of one cell, and the columns of its record where its folder, `run`, has one.

    What the record declares of metrics is added to `declared`.
    """
    found = None
    row = {**cell["choices"], "run_id": cell["run_id"], "folder": cell["folder"]}
    if cell["accepted_code"]:
        row["accepted_code"] = " ".join(cell["accepted_code"])
    try:
        # Where there is a record it is read once, and that says whether it is whole.
        row["status"] = DONE
        record = find_record(run)
        if record is not None:
            found = shapes.of(record)
            row.setdefault(SEED, record["seeds"].get("seed"))
            # Records of earlier versions declare nothing.
            declared.append(record.get("declared", {}))
        else:
            row["status"] = status(Path(run))
            if row["status"] == "failed":
                row["message"] = read_json(Path(run) / FAILURE, "Run it again.")["error"]
    except LabError as error:
        row["message"] = str(error)
        row["status"] = UNREADABLE if row["status"] == DONE else row["status"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        row["message"] = f"what became of it cannot be read: {type(error).__name__}: {error}"
        row["status"] = UNREADABLE if row["status"] == DONE else row["status"]
    return row, found


def _own(part: Rows, metric: str) -> list[Estimate | None]:
    """Each run's own estimate, with its interval over prompts where it has one."""
    columns = [part.get(f"{metric}{end}", [None] * len(part[SEED])) for end in ("", "_low", "_high", "_n")]
    return [
        None if value is None or low is None else Estimate(value, low, high, int(n or 0))
        for value, low, high, n in zip(*columns, strict=True)
    ]
