"""`benchmark.py growth`: what more of something costs.

Steps: seconds of a step against the batch and against the length of texts, beside the floor. Examples: a whole `kto-lab
train` of one epoch, nothing evaluated, against the number of thumbs, with an empty reference store and with a full one.
Cells: a whole `kto-lab sweep` against the number of its cells. Reports: `kto-lab report` against the number of records,
and a sweep that finds all of its cells done.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import data, machine, records, showing, steps, sweeps
from benchmarks.commands import KTO_LAB, run
from benchmarks.jobs import FLOOR, MAX_LENGTH, OURS
from kto_lab.files import write_json


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: "tiny" or "smollm2", of the steps and of the runs; sweeps and reports are of the tiny one.
        batches: sequences per step.
        scales: of all lengths, the batch being the first of `batches`, or 8.
        examples: thumbs of a run.
        cells: of a sweep.
        records: of a report.
        finished: cells of the sweep that finds all done.
        rounds: measured steps.
        threads: of torch.
        overrides: more words for `kto-lab train`.
    """

    model: str
    batches: tuple[int, ...]
    scales: tuple[float, ...]
    examples: tuple[int, ...]
    cells: tuple[int, ...]
    records: tuple[int, ...]
    finished: tuple[int, ...]
    rounds: int
    threads: int
    overrides: tuple[str, ...] = ()


def main(settings: Settings, target: Path) -> Path:
    """Measure, save each table when it is made, and print them."""
    asked = {name: value for name, value in vars(settings).items() if name in ("model", "threads", "overrides")}
    file = target / f"growth-{settings.model}.json"
    result: dict[str, Any] = {"kind": "growth", "machine": machine.described(), "settings": asked, "growth": {}}
    for name, rows in measured(settings):
        result["growth"][name] = rows
        write_json(file, result)
    showing.show_growth(result)
    return file


def measured(settings: Settings) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """The tables that are asked for, one after another: name and rows."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        tables: dict[str, tuple[Sequence[Any], Callable[[Any], dict[str, float]]]] = {
            "records of a report": (settings.records, partial(report_row, settings, folder)),
            "finished cells of a sweep": (settings.finished, partial(resume_row, settings, folder)),
            "cells of a sweep": (settings.cells, partial(cell_row, settings, folder)),
            "examples of a run": (settings.examples, partial(example_row, settings, folder)),
            "sequences per step": (settings.batches, lambda batch: step_row(settings, batch=batch)),
            "length of texts": (settings.scales, lambda scale: step_row(settings, scale=scale)),
        }
        for title, (asked, row) in tables.items():
            if asked:
                yield title, [row(one) for one in asked]


def step_row(settings: Settings, *, batch: int | None = None, scale: float = 1.0) -> dict[str, float]:
    """A step of KTO beside its floor."""
    asked = steps.Settings(
        model=settings.model,
        loss="kto",
        adapter="none",
        precision="float32",
        dataset="distinct",
        batch=batch or next(iter(settings.batches), 8),
        rounds=settings.rounds,
        warmup=2,
        threads=settings.threads,
        contestants=(FLOOR, OURS),
        scale=scale,
        overrides=settings.overrides,
    )
    result = steps.measure(asked)
    mine = result["contestants"][OURS]
    return {
        "sequences": asked.batch,
        "tokens": result["data"]["tokens_a_step"],
        "longest": result["data"]["prompt_tokens"][2] + result["data"]["completion_tokens"][2],
        "seconds per step": mine["seconds"]["median"],
        "tokens per second": mine["tokens_per_second"],
        "over the floor": mine["over"][FLOOR]["median"],
        "peak GiB": mine["peak_memory"] / 2**30,
    }


def example_row(settings: Settings, folder: Path, count: int) -> dict[str, float]:
    """Whole runs of one epoch."""
    own = folder / f"examples-{count}"
    model, thumbs = own / "model", own / "thumbs.jsonl"
    own.mkdir()
    data.write_thumbs(thumbs, data.save_model(settings.model, model), prompts=count, completions=1)
    row: dict[str, float] = {"examples": count}
    for name in ("empty store", "full store") if data.has_store() else ("no store",):
        run_dir = own / name.replace(" ", "-")
        words = data.overrides(
            model=model,
            thumbs=thumbs,
            run_dir=run_dir,
            loss="kto",
            adapter="none",
            batch=8,
            steps=count // 8,
            max_length=MAX_LENGTH,
        )
        store = [f"{data.STORE_KEY}.folder={own / 'store'}"] if data.has_store() else []
        command = [*KTO_LAB, "train", *words, *store, *settings.overrides]
        ran = run(command, own / f"{run_dir.name}.txt", threads=settings.threads)
        stages = json.loads((run_dir / "record.json").read_text(encoding="utf-8"))["timings"]
        row |= {
            f"seconds, {name}": ran.seconds,
            f"before training, {name}": sum(stages.get(stage, 0.0) for stage in ("feedback", "model", "plan")),
            f"training, {name}": stages["training"],
            "peak GiB": ran.peak_memory / 2**30,
        }
    return row


def cell_row(settings: Settings, folder: Path, cells: int) -> dict[str, float]:
    """A whole sweep of cells that differ in their label noise, on the tiny policy."""
    asked = sweeps.Settings(
        model="tiny",
        lambdas=(1.0,),
        rates=tuple(round(0.4 * number / cells, 4) for number in range(cells)),
        steps=sweeps.STEPS["tiny"],
        threads=settings.threads,
        evaluate=False,
        overrides=settings.overrides,
    )
    own = folder / f"cells-{cells}"
    sweeps.write_study(own / "conf", {"loss.weighting.lambda_desirable": asked.lambdas}, asked.rates)
    ran = sweeps.ours(asked, own, "runs", sweeps.NO_EVALUATION)
    return {
        "cells": cells,
        "seconds": ran.seconds,
        "seconds per cell": ran.seconds / cells,
        "peak GiB": ran.peak_memory / 2**30,
    }


def report_row(settings: Settings, folder: Path, count: int) -> dict[str, float]:
    """`kto-lab report` on so many records."""
    study = folder / f"report-{count}"
    records.write_many(study, count)
    times = [run([*KTO_LAB, "report", f"folder={study}"], study / "said.txt", threads=settings.threads)]
    times.append(run([*KTO_LAB, "report", f"folder={study}"], study / "said.txt", threads=settings.threads))
    first, again = times
    return {
        "records": count,
        "seconds": first.seconds,
        "CPU seconds": first.cpu_seconds,
        "seconds, again": again.seconds,
        "peak GiB": first.peak_memory / 2**30,
    }


def resume_row(settings: Settings, folder: Path, count: int) -> dict[str, float]:
    """A sweep that has nothing to do: composed for the first time, and again."""
    own = folder / f"finished-{count}"
    asked = sweeps.Settings(model="tiny", lambdas=(1.0,), rates=(0.1,), steps=2, threads=settings.threads)
    grid = {"loss.weighting.lambda_desirable": asked.lambdas}
    sweeps.write_study(own / "conf", grid, asked.rates, seeds=range(count))
    words = [f"study={sweeps.STUDY}", f"runs_dir={own / 'runs'}", *sweeps.words_of(asked), *sweeps.NO_EVALUATION]
    command = [*KTO_LAB, "sweep", "--config-dir", str(own / "conf"), *words]
    listed = run([*command, "--dry-run"], own / "listed.txt", threads=settings.threads)
    records.finish(own / "runs", records.listed(listed.said))
    first = run(command, own / "first.txt", threads=settings.threads)
    again = run(command, own / "again.txt", threads=settings.threads)
    return {
        "cells": count,
        "seconds, first": first.seconds,
        "seconds, again": again.seconds,
        "CPU seconds, again": again.cpu_seconds,
    }
