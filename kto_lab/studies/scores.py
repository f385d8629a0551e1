"""What each held-out prompt scored in a run, from the answers that the run keeps, and the two halves of the prompts."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from kto_lab.files import atomic_path

# Of a study that is published: the scores of all its runs, in the place of their answers.
PUBLISHED = "scores.parquet"
ANSWERS = Path("evaluation") / "trained.json"
VALIDATION, TEST = "validation", "test"
# Metrics of which every prompt has a score, as `evaluation.answers.ScoredAnswer.outcomes` has them.
SCORED = ("pass_rate", "sentiment", "answer_length", "finished")
# The scores of a run, as its folder stands in a frame, by prompt; None where it keeps none of this metric.
Scores: TypeAlias = Callable[[str, str], Mapping[str, float] | None]


def scores_in(folder: Path, half: str | None = None) -> Scores:
    """The scores of the runs of a study.

    Args:
        folder: of the study.
        half: `VALIDATION` or `TEST`; None for all prompts.
    """

    def scores(run: str, metric: str) -> Mapping[str, float] | None:
        found: Mapping[str, float] | None
        if (published := folder / PUBLISHED).exists():
            found = _read_published(published, published.stat().st_mtime_ns).get(Path(run).name, {}).get(metric)
        else:
            found = prompt_scores(folder / run, metric)
        if half is None or found is None:
            return found
        return {prompt: score for prompt, score in found.items() if half_of(prompt) == half} or None

    return scores


def prompt_scores(run: Path, metric: str) -> Mapping[str, float] | None:
    """What each held-out prompt's greedy answer scored after training; None where the run keeps no such scores.

    Args:
        run: the run folder.
        metric: one of `SCORED`; others have no score a prompt.
    """
    file = run / ANSWERS
    try:
        found = _read(file, file.stat().st_mtime_ns)
    except OSError:
        return None
    return found.get(metric)


def write_scores(folder: Path, runs: Mapping[str, Path]) -> None:
    """Write the scores of all runs of a study into one file of its published folder; a run without any has no row.

    Args:
        folder: to publish into.
        runs: run_id to the folder of the run.
    """
    # Imported here: pyarrow takes a while, and runs read no scores.
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        (run, prompt, metric, score)
        for run, where in runs.items()
        for metric in SCORED
        for prompt, score in (prompt_scores(where, metric) or {}).items()
    ]
    columns = dict(zip(("run", "prompt", "metric", "score"), zip(*rows, strict=True), strict=False))
    with atomic_path(folder / PUBLISHED) as partial:
        pq.write_table(
            pa.table({name: pa.array(values) for name, values in columns.items()}), partial, compression="zstd"
        )


@lru_cache(maxsize=1 << 16)
def half_of(prompt_id: str) -> str:
    """The half of the held-out prompts that a prompt is in: its hash says, so it is the same in every run."""
    # Imported here, since the table of examples takes a second and only a search asks.
    from kto_lab.feedback.table import content_hash

    return (VALIDATION, TEST)[int(content_hash("validation", prompt_id), 16) % 2]


# Tables and figures ask for the same run again. The time of the file tells a new one from what was read.
@lru_cache(maxsize=1 << 14)
def _read(file: Path, changed: int) -> dict[str, dict[str, float]]:
    """Metric and prompt to score; empty where the file is damaged."""
    found: dict[str, dict[str, float]] = {}
    try:
        for answer in json.loads(file.read_text(encoding="utf-8"))["answers"]:
            for metric, score in _outcomes(answer).items():
                # One string a prompt for all runs: they share their prompts.
                found.setdefault(metric, {})[sys.intern(answer["prompt_id"])] = score
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found


def _outcomes(answer: Mapping[str, Any]) -> dict[str, float]:
    """The scores of one kept answer."""
    found = {answer["metric"]: answer["score"], "answer_length": answer["n_tokens"], "finished": answer["finished"]}
    return {metric: float(score) for metric, score in found.items() if metric is not None and score is not None}


@lru_cache(maxsize=8)
def _read_published(file: Path, changed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Run, metric and prompt to score."""
    import pyarrow.parquet as pq

    found: dict[str, dict[str, dict[str, float]]] = {}
    table = pq.read_table(file)
    for run, prompt, metric, score in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        found.setdefault(run, {}).setdefault(metric, {})[sys.intern(prompt)] = score
    return found
