"""What each held-out prompt scored in a run, as its folder keeps it, and the two halves of the prompts."""

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kto_lab.files import atomic_path
from kto_lab.hashing import content_hash
from kto_lab.runs.prompt_scores import PromptScores
from kto_lab.sealed import DamagedError, read_json

if TYPE_CHECKING:
    import pyarrow

# Of a study that is published: the scores of all its runs, in the place of their answers.
PUBLISHED = "scores.parquet"
# Metric to prompt_id to score, of the trained policy; evaluation.evaluate writes it.
KEPT = Path("evaluation") / "scores.json"
VALIDATION, TEST = "validation", "test"
# Columns of the published file, beside the score.
NAMES = ("run", "prompt", "metric")
# The scores of a run, as its folder stands in a frame; None where it keeps none of this metric.
Scores: TypeAlias = Callable[[str, str], PromptScores | None]


def scores_in(folder: Path, half: str | None = None) -> Scores:
    """The scores of the runs of a study.

    Args:
        folder: of the study.
        half: `VALIDATION` or `TEST`; None for all prompts.
    """

    published = folder / PUBLISHED
    kept = _read_published(published, published.stat().st_mtime_ns) if published.exists() else None

    def scores(run: str, metric: str) -> PromptScores | None:
        found = kept.of(run.rpartition("/")[2], metric) if kept is not None else prompt_scores(folder / run, metric)
        if half is None or found is None:
            return found
        prompts, places = _of_half(found.prompts, half)
        return PromptScores(prompts, found.numbers[places]) if prompts else None

    return scores


def prompt_scores(run: Path, metric: str) -> PromptScores | None:
    """What each held-out prompt scored after training; None where the run keeps no such scores.

    Args:
        run: the run folder, also that of a published run, whose scores are its study's.
        metric: its name; some have no score per prompt.

    Raises:
        DamagedError: the file that holds them is damaged.
    """
    published = run.parent.parent / PUBLISHED
    if (run / KEPT).exists() or not published.exists():
        return _kept(run).get(metric)
    return _read_published(published, published.stat().st_mtime_ns).of(run.name, metric)


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
        for metric, scores in _kept(where).items()
        for prompt, score in scores.items()
    ]
    kinds = dict.fromkeys(NAMES, pa.string()) | {"score": pa.float64()}
    columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
    table = pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, kinds.values(), strict=True)], schema=pa.schema(kinds)
    )
    with atomic_path(folder / PUBLISHED) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


@lru_cache(maxsize=1 << 16)
def half_of(prompt_id: str) -> str:
    """The half of the held-out prompts that a prompt is in: its hash says, so it is the same in every run."""
    return (VALIDATION, TEST)[int(content_hash("validation", prompt_id), 16) % 2]


# Runs answer the same prompts: what is said of these is said once.
@lru_cache(maxsize=1 << 8)
def _of_half(prompts: tuple[str, ...], half: str) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Those of a half, and their places."""
    places = [place for place, prompt in enumerate(prompts) if half_of(prompt) == half]
    return tuple(prompts[place] for place in places), np.array(places, dtype=np.intp)


def _kept(run: Path) -> dict[str, PromptScores]:
    """Metric to scores; empty where the run folder has none."""
    file = run / KEPT
    try:
        return _read(file, file.stat().st_mtime_ns)
    except OSError:
        return {}


# Tables and figures ask for the same run again. The time of the file tells a new one from what was read.
@lru_cache(maxsize=1 << 14)
def _read(file: Path, changed: int) -> dict[str, PromptScores]:
    """Metric to scores; raises as `prompt_scores`, or OSError."""
    mend = "Remove it, and the report goes without the scores of these prompts."
    try:
        found = read_json(file, mend)
        # One string per prompt for all runs: they share their prompts.
        return {
            metric: PromptScores.of({sys.intern(prompt): float(score) for prompt, score in scores.items()})
            for metric, scores in found.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedError(file, f"it holds no scores ({error})", mend) from error


class _Published:
    """The scores of a published study; those of one run are put together when asked for."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            DamagedError: it is damaged.
        """
        # Imported here: pyarrow takes a while, and runs read no scores.
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Run and metric to parts: the prompts, as bytes of int32 places in `_names`, and their scores.
        self._parts: dict[tuple[str, str], list[tuple[bytes, NDArray[np.float64]]]] = {}
        self._names: dict[str, int] = {}
        # Runs answer the same prompts in the same order: it is kept and looked up once.
        self._orders: dict[bytes, bytes] = {}
        self._asked: dict[bytes, tuple[tuple[str, ...], NDArray[np.intp]]] = {}
        try:
            with pq.ParquetFile(file, read_dictionary=list(NAMES), page_checksum_verification=True) as parquet:
                # One after another: what millions of rows say beside their scores is never held at once.
                for number in range(parquet.num_row_groups):
                    self._add(parquet.read_row_group(number).unify_dictionaries().combine_chunks())
        except (pa.ArrowException, OSError, LookupError, ValueError, AttributeError) as error:
            raise DamagedError(file, f"it holds no scores ({error})", "Publish the study again.") from error

    def _add(self, table: "pyarrow.Table") -> None:
        """Take in some rows of the file."""
        if not table.num_rows:
            return
        columns = {name: table[name].chunk(0) for name in NAMES}
        run, prompt, metric = (columns[name].indices.to_numpy() for name in NAMES)
        runs, prompts, metrics = (columns[name].dictionary.to_pylist() for name in NAMES)
        prompt = np.array([self._names.setdefault(name, len(self._names)) for name in prompts], dtype=np.int32)[prompt]
        scores = table["score"].to_numpy()
        # Those of a run and metric stand together where we have written the file; where they do not, they are put so.
        starts = _changes(run, metric)
        if len(set(zip(run[starts].tolist(), metric[starts].tolist(), strict=True))) < len(starts):
            order = np.lexsort((metric, run))
            run, prompt, metric, scores = run[order], prompt[order], metric[order], scores[order]
            starts = _changes(run, metric)
        keys = zip(run[starts].tolist(), metric[starts].tolist(), strict=True)
        for (one, other), start, stop in zip(keys, starts, [*starts[1:], len(run)], strict=True):
            asked = prompt[start:stop].tobytes()
            part = (self._orders.setdefault(asked, asked), scores[start:stop])
            self._parts.setdefault((runs[one], metrics[other]), []).append(part)

    def of(self, run: str, metric: str) -> PromptScores | None:
        """The scores of a run; None where there are none."""
        if (parts := self._parts.get((run, metric))) is None:
            return None
        asked = b"".join(one for one, _ in parts)
        if (known := self._asked.get(asked)) is None:
            names = list(self._names)
            # Should a prompt stand there twice, the last counts, as among the answers of a run.
            places = {names[row]: place for place, row in enumerate(np.frombuffer(asked, dtype=np.int32))}
            known = tuple(sorted(places)), np.array([places[prompt] for prompt in sorted(places)], dtype=np.intp)
            self._asked[asked] = known
        prompts, order = known
        return PromptScores(prompts, np.concatenate([scores for _, scores in parts])[order])


def _changes(run: NDArray[np.int32], metric: NDArray[np.int32]) -> list[int]:
    """Where rows of another run or metric begin."""
    other = (run[1:] != run[:-1]) | (metric[1:] != metric[:-1])
    return [0, *(np.flatnonzero(other) + 1).tolist()]


@lru_cache(maxsize=8)
def _read_published(file: Path, changed: int) -> _Published:
    return _Published(file)
