"""What each held-out prompt scored in a run, from the answers that the run keeps, and the two halves of the prompts."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kto_lab.feedback.table import content_hash
from kto_lab.files import atomic_path

# Of a study that is published: the scores of all its runs, in the place of their answers.
PUBLISHED = "scores.parquet"
ANSWERS = Path("evaluation") / "trained.json"
VALIDATION, TEST = "validation", "test"
# Columns of the published file, beside the score.
NAMES = ("run", "prompt", "metric")
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

    published = folder / PUBLISHED
    kept = _read_published(published, published.stat().st_mtime_ns) if published.exists() else None

    def scores(run: str, metric: str) -> Mapping[str, float] | None:
        if kept is not None:
            return kept.of(run.rpartition("/")[2], metric, half)
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
    columns = dict(zip((*NAMES, "score"), zip(*rows, strict=True), strict=False))
    with atomic_path(folder / PUBLISHED) as partial:
        pq.write_table(
            pa.table({name: pa.array(values) for name, values in columns.items()}), partial, compression="zstd"
        )


@lru_cache(maxsize=1 << 16)
def half_of(prompt_id: str) -> str:
    """The half of the held-out prompts that a prompt is in: its hash says, so it is the same in every run."""
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


class _Published:
    """The scores of a published study as they lie in its file; those of one run are put together when asked for."""

    def __init__(self, file: Path) -> None:
        """Read the file."""
        # Imported here: pyarrow takes a while, and runs read no scores.
        import pyarrow.parquet as pq

        table = pq.read_table(file, read_dictionary=list(NAMES)).unify_dictionaries().combine_chunks()
        self._spans: dict[tuple[str, str], tuple[int, int]] = {}
        if not table.num_rows:
            return
        columns = {name: table[name].chunk(0) for name in NAMES}
        run, prompt, metric = (columns[name].indices.to_numpy() for name in NAMES)
        runs, prompts, metrics = (columns[name].dictionary.to_pylist() for name in NAMES)
        scores = table["score"].to_numpy()
        # Those of a run and metric stand together where we have written the file; where they do not, they are put so.
        starts = _changes(run, metric)
        if len(set(zip(run[starts].tolist(), metric[starts].tolist(), strict=True))) < len(starts):
            order = np.lexsort((metric, run))
            run, prompt, metric, scores = run[order], prompt[order], metric[order], scores[order]
            starts = _changes(run, metric)
        keys = zip(run[starts].tolist(), metric[starts].tolist(), strict=True)
        for (one, other), start, stop in zip(keys, starts, [*starts[1:], len(run)], strict=True):
            self._spans[runs[one], metrics[other]] = (start, stop)
        self._prompts, self._scores, self._names = prompt, scores, prompts
        halves = np.array([half_of(name) for name in prompts], dtype=object)
        self._in_half = {half: halves == half for half in (VALIDATION, TEST)}
        # Runs answer the same prompts in the same order: what is said of these is said once.
        self._asked: dict[tuple[bytes, str | None], tuple[list[str], NDArray[np.intp]]] = {}

    def of(self, run: str, metric: str, half: str | None) -> Mapping[str, float] | None:
        """Prompt to score, of the prompts of a half or of all; None where there is none."""
        if (span := self._spans.get((run, metric))) is None:
            return None
        prompts, scores = self._prompts[slice(*span)], self._scores[slice(*span)]
        key = (prompts.tobytes(), half)
        if (asked := self._asked.get(key)) is None:
            mine = np.arange(len(prompts)) if half is None else np.flatnonzero(self._in_half[half][prompts])
            asked = self._asked[key] = ([self._names[place] for place in prompts[mine].tolist()], mine)
        names, mine = asked
        return dict(zip(names, scores[mine].tolist(), strict=True)) or None


def _changes(run: NDArray[np.int32], metric: NDArray[np.int32]) -> list[int]:
    """Where rows of another run or metric begin."""
    other = (run[1:] != run[:-1]) | (metric[1:] != metric[:-1])
    return [0, *(np.flatnonzero(other) + 1).tolist()]


@lru_cache(maxsize=8)
def _read_published(file: Path, changed: int) -> _Published:
    return _Published(file)
