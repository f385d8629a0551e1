"""The records of a study as one pandas frame: a row a cell, whatever became of it.

A study's folder holds `study.json`: the study (name, question, tables, figures), its cells (choices, run_id, and the
folder of the run, relative to the study's; a record file will do) and the command that made it. Columns of the frame:

| column                        | content                                                                             |
|-------------------------------|-------------------------------------------------------------------------------------|
| the choices                   | what tells cells apart, as `arm`, `corruption.rate`: all columns before `seed`      |
| `seed`                        | of the run                                                                          |
| `status`, `message`           | done, failed, running, unreadable or missing; and why it failed or cannot be read   |
| `run_id`, `folder`            | of the run                                                                          |
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
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from kto_lab.errors import LabError
from kto_lab.evaluation.statistics import Estimate
from kto_lab.studies.cell import FAILURE, status
from kto_lab.studies.comparisons import Mean, Outcome, mean_over_seeds
from kto_lab.studies.record import RECORD, read_record
from kto_lab.studies.scores import Scores

STUDY = "study.json"
SEED = "seed"
DONE = "done"
UNREADABLE = "unreadable"
BOOKKEEPING = (SEED, "status", "message", "run_id", "folder")
# Sections of the metrics whose names need no prefix, and sections of a record that have columns of their own.
PLAIN = ("answers", "rewards", "lm_eval")
SHORT = ("metrics", "timings", "training", "peak_memory")
# The last parts of a metric's place, and what they put behind its name.
ENDS = {"value": "", "trained": ""} | {
    end: f"_{end}" for end in ("low", "high", "n", "base", "difference", "detectable")
}


@dataclass(frozen=True)
class StudyFolder:
    """What `study.json` says.

    Attributes:
        folder: where it is.
        name: of the study.
        question: that it asks.
        tables: specifications of its tables.
        figures: specifications of its figures.
        cells: choices, run_id and folder of each run.
        command: that made it.
        scale: option of the group `scale` that it was swept at, if any.
    """

    folder: Path
    name: str
    question: str
    tables: Sequence[Mapping[str, Any]]
    figures: Sequence[Mapping[str, Any]]
    cells: Sequence[Mapping[str, Any]]
    command: str
    scale: str | None = None


@dataclass(frozen=True)
class Group:
    """Cells that differ by their seed alone, looked at by one metric.

    Attributes:
        mean: of the metric over the seeds that have it.
        outcomes: seed to outcome, of those.
        planned: how many cells there are.
        others: status to count, of the cells that have no value; a finished run without one is "not measured".
        prompts: fewest and most prompts behind a value, or None.
    """

    mean: Mean
    outcomes: Mapping[int, Outcome]
    planned: int
    others: Mapping[str, int]
    prompts: tuple[int, int] | None


def read_study(folder: Path) -> StudyFolder:
    """Read `study.json` of a study's folder.

    Raises:
        LabError: there is none, or it is not what a sweep writes.
    """
    file = folder / STUDY
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        study = found["study"]
        return StudyFolder(
            folder=folder,
            name=study["name"],
            question=study.get("question", ""),
            tables=study.get("tables") or [],
            figures=study.get("figures") or [],
            cells=[{key: cell[key] for key in ("choices", "run_id", "folder")} for cell in found["cells"]],
            command=found.get("command", ""),
            scale=found.get("scale"),
        )
    except FileNotFoundError as error:
        raise LabError(f"There is no study at {file}. `kto-lab sweep study=<name>` writes it.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise LabError(
            f"{file} cannot be read as a study: {reason}. Run the sweep again; it keeps the runs."
        ) from error


def load(folder: Path | str) -> pd.DataFrame:
    """The cells of a study, one a row, in the order of the sweep; see the module for the columns.

    Raises:
        LabError: `folder` holds no study.
    """
    study = read_study(Path(folder))
    names = list(dict.fromkeys(key for cell in study.cells for key in cell["choices"] if key != SEED))
    rows = [_row(study.folder, cell, taken={*names, *BOOKKEEPING}) for cell in study.cells]
    columns = dict.fromkeys([*names, *BOOKKEEPING, *(column for row in rows for column in row)])
    # Gathered as objects and inferred: a choice that only some arms have must not turn whole numbers into floats.
    # Copied, so that columns of a kind lie together: a part of some hundred columns is then taken at once.
    return pd.DataFrame(rows, columns=list(columns), dtype=object).infer_objects().copy()


def choices(frame: pd.DataFrame) -> list[str]:
    """The choices of a study, its seed apart: the columns before `seed`."""
    return [str(name) for name in frame.columns[: frame.columns.get_loc(SEED)]]


def grouped(frame: pd.DataFrame, keys: Sequence[str], what: str) -> dict[tuple[Any, ...], pd.DataFrame]:
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
    values = [tuple(plain(value) for value in row) for row in zip(*(frame[key] for key in keys), strict=True)]
    members: dict[tuple[Any, ...], list[int]] = {}
    for place, value in enumerate(values):
        members.setdefault(value, []).append(place)
    groups = {value: frame.iloc[places] for value, places in members.items()}
    for value, part in groups.items():
        if part[SEED].duplicated().any():
            varying = [key for key in have if key not in keys and len({plain(one) for one in part[key]}) > 1]
            named = ", ".join(f"{key}={one}" for key, one in zip(keys, value, strict=True))
            raise LabError(
                f"{what}: cells with {named} also differ by {', '.join(varying) or 'nothing but their place'}. They "
                "are not averaged: name that choice, too, or sweep it in a study of its own."
            )
    return groups


def measured(part: pd.DataFrame, metric: str, scores: Scores | None, what: str) -> Group:
    """One metric of cells that differ by their seed alone.

    Args:
        part: rows of a frame.
        metric: a column.
        scores: of single prompts; None leaves them out.
        what: asks, for messages.

    Raises:
        LabError: the column is no metric.
    """
    outcomes: dict[int, Outcome] = {}
    others: dict[str, int] = {}
    values = part[metric] if metric in part else [None] * len(part)
    for found, state, seed, run in zip(values, part["status"], part[SEED], part["folder"], strict=True):
        value = plain(found)
        if value is None:
            reason = "not measured" if state == DONE else state
            others[reason] = others.get(reason, 0) + 1
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LabError(f"{what}: {metric} is no metric; it holds {value!r}.")
        outcomes[int(seed)] = Outcome(float(value), scores(run, metric) if scores else None)
    counts = [int(n) for n in part.get(f"{metric}_n", pd.Series(dtype=float)).dropna()]
    return Group(
        mean=mean_over_seeds(
            [outcome.value for outcome in outcomes.values()], _own(part, metric) if len(outcomes) == 1 else None
        ),
        outcomes=outcomes,
        planned=len(part),
        others=others,
        prompts=(min(counts), max(counts)) if counts else None,
    )


def of_metrics(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """What a table or figure of these metrics needs of a frame: taking parts of some hundred columns would be slow."""
    ends = ("", "_low", "_high", "_n")
    wanted = [*choices(frame), *BOOKKEEPING, *(f"{metric}{end}" for metric in metrics for end in ends)]
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
    if isinstance(value, list | dict):
        return json.dumps(value)
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _row(folder: Path, cell: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """The columns of one cell."""
    run = folder / cell["folder"]
    row = {**cell["choices"], "run_id": cell["run_id"], "folder": cell["folder"]}
    # Where there is a record it is read once, and that says whether it is whole.
    row["status"] = DONE if run.is_file() or (run / RECORD).exists() else status(run)
    try:
        if row["status"] == DONE:
            record = read_record(run)
            row.setdefault(SEED, record["seeds"].get("seed"))
            row |= _columns(record, taken)
        elif row["status"] == "failed":
            row["message"] = json.loads((run / FAILURE).read_text(encoding="utf-8"))["error"]
    except LabError as error:
        row |= {"status": UNREADABLE, "message": str(error)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        row["message"] = f"what became of it cannot be read: {type(error).__name__}: {error}"
        row["status"] = UNREADABLE if row["status"] == DONE else row["status"]
    return row


def _columns(record: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """All of a record as columns. A short name that is a choice's or another's gives way to the dotted place."""
    columns: dict[str, Any] = {"seconds": sum(record["timings"].values())}
    leaves: list[tuple[tuple[str, ...], Any]] = []
    _gather({key: part for key, part in record.items() if key not in ("status", "run_id")}, (), leaves)
    for place, value in leaves:
        name = _name(place)
        columns[".".join(place) if name in taken or name in columns else name] = value
    return columns


def _gather(node: Any, place: tuple[str, ...], leaves: list[tuple[tuple[str, ...], Any]]) -> None:
    """Add the place and value of every leaf below a node; an empty section is one."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            _gather(value, (*place, key), leaves)
    else:
        leaves.append((place, json.dumps(node) if isinstance(node, list | dict) else node))


# Records of one study have the same places.
@lru_cache(maxsize=1 << 14)
def _name(place: tuple[str, ...]) -> str:
    """The readable name of a place in a record."""
    section, *rest = place
    if section not in SHORT or not rest:
        return ".".join(place)
    if section == "timings":
        return ".".join(["seconds", *rest])
    if section == "peak_memory":
        return "peak_memory" if rest == ["process"] else "_".join([section, *rest])
    if section == "training":
        return ".".join(rest)
    names = rest[1:] if rest[0] in PLAIN else rest
    if rest[0] == "lm_eval" and len(rest) > 2:
        # lm_eval/base/task/metric/value: which policy it is comes first there, and elsewhere after the metric.
        names = [*rest[2:-1], rest[1], rest[-1]]
    ends: list[str] = []
    while len(names) > 1 and names[-1] in ENDS:
        ends.insert(0, ENDS[names.pop()])
    return ".".join(names) + "".join(ends)


def _own(part: pd.DataFrame, metric: str) -> Estimate | None:
    """The estimate of the one run that has a value."""
    if f"{metric}_low" not in part:
        return None
    rows = part.dropna(subset=[metric])
    value, low, high, n = (
        plain(rows[f"{metric}{end}"].iloc[0]) if len(rows) else None for end in ("", "_low", "_high", "_n")
    )
    return Estimate(value, low, high, n or 0)
