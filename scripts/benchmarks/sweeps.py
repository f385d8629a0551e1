"""`benchmark.py sweep`: a grid of lambda_D and label noise, by one `kto-lab sweep` and by as many runs of TRL.

Each run of TRL is a process of its own, as a person would run it: load, tokenise, train, save; as many steps of as many
examples, in float32, without activation checkpointing. kto-lab saves as much and evaluates nothing; a second figure is
with the evaluation that it does by default. Its reference store starts out empty.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from hydra.utils import instantiate

from benchmarks import data, machine, showing
from benchmarks.commands import KTO_LAB, Ran, run
from benchmarks.contestants import ENTRY
from benchmarks.jobs import MAX_LENGTH, OURS, TRL
from kto_lab.feedback.table import of_split
from kto_lab.files import write_json, write_text

STUDY = "benchmark"
WITH_EVALUATION = "kto-lab, with its evaluation"
NO_EVALUATION = ("evaluation.prompts=0", "evaluation.reward_examples=0", "evaluation.kl_prompts=0")
WORDS = {
    "tiny": ["scale=tiny"],
    "smollm2": ["model.source=registry", "optimization.batch_size=8", "evaluation=quick", "trainer=cpu"],
}
STEPS = {"tiny": 50, "smollm2": 3}


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: "tiny" or "smollm2".
        lambdas: values of lambda_D.
        rates: shares of each class with the wrong thumb.
        steps: of each run.
        threads: of torch.
        evaluate: whether kto-lab is run a second time, with its evaluation.
        overrides: more words for `kto-lab sweep`.
    """

    model: str
    lambdas: tuple[float, ...]
    rates: tuple[float, ...]
    steps: int
    threads: int
    evaluate: bool = True
    overrides: tuple[str, ...] = ()

    @property
    def cells(self) -> int:
        """How many there are."""
        return len(self.lambdas) * len(self.rates)


def main(settings: Settings, target: Path) -> Path:
    """Measure, print a table, and save it."""
    result = measure(settings)
    showing.show_sweep(result)
    file = target / f"sweep-{settings.model}-{settings.cells}cells.json"
    write_json(file, result)
    return file


def measure(settings: Settings) -> dict[str, Any]:
    """Run the grid in every way."""
    described = machine.described()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        write_study(folder / "conf", {"loss.weighting.lambda_desirable": settings.lambdas}, settings.rates)
        # Before and after the others, since a machine's speed drifts: the two are the spread of every ratio.
        mine = [ours(settings, folder, "before", NO_EVALUATION)]
        each = theirs(settings, folder)
        mine.append(ours(settings, folder, "after", NO_EVALUATION))
        ways = {
            OURS: as_dict(mean(one.seconds for one in mine), mine),
            TRL: as_dict(sum(one.seconds for one in each), each),
        }
        if settings.evaluate:
            evaluated = ours(settings, folder, "evaluated", ())
            ways[WITH_EVALUATION] = as_dict(evaluated.seconds, [evaluated])
    return {
        "kind": "sweep",
        "machine": described,
        "model": settings.model,
        "cells": settings.cells,
        "steps": settings.steps,
        "batch": batch_of(settings),
        "lambdas": settings.lambdas,
        "rates": settings.rates,
        "overrides": settings.overrides,
        "threads": settings.threads,
        "ways": ways,
    }


def as_dict(seconds: float, each: Sequence[Ran]) -> dict[str, Any]:
    """Time and memory of a way, and of each of its commands."""
    return {
        "seconds": seconds,
        "peak_memory": max(one.peak_memory for one in each),
        "each": [one.seconds for one in each],
    }


def write_study(
    folder: Path, grid: Mapping[str, Sequence[float]], rates: Sequence[float], *, seeds: Sequence[int] = (0,)
) -> None:
    """Write a study for `kto-lab sweep --config-dir`: KTO over a grid of its own and of the rate of label noise."""
    study = {
        "name": STUDY,
        "question": "How long does it take?",
        "overrides": ["loss=kto", "weighting@loss.weighting=fixed", "corruption=label_noise"],
        "arms": {"kto": []},
        "grid": {name: ",".join(f"{value:g}" for value in values) for name, values in grid.items()}
        | {"corruption.rate": ",".join(f"{rate:g}" for rate in rates)},
        "seeds": list(seeds),
        "scales": {},
        "tables": [],
        "figures": [],
    }
    write_text(folder / "study" / f"{STUDY}.yaml", yaml.safe_dump(study))


def words_of(settings: Settings) -> list[str]:
    """The words that all cells have."""
    return [*WORDS[settings.model], f"optimization.max_steps={settings.steps}", *settings.overrides]


def ours(settings: Settings, folder: Path, name: str, more: Sequence[str]) -> Ran:
    """One `kto-lab sweep`, with runs and a reference store of its own."""
    store = [f"{data.STORE_KEY}.folder={folder / name / 'store'}"] if data.has_store() else []
    own = [f"runs_dir={folder / name}", *words_of(settings), *store, *more]
    command = [*KTO_LAB, "sweep", "--config-dir", str(folder / "conf"), f"study={STUDY}", *own]
    return run(command, folder / f"{name}.txt", threads=settings.threads)


def batch_of(settings: Settings) -> int:
    """Examples a step."""
    return int(data.composed(words_of(settings)).optimization.batch_size)


def theirs(settings: Settings, folder: Path) -> list[Ran]:
    """As many runs of TRL."""
    model = folder / "model"
    data.save_model(settings.model, model)
    batch = batch_of(settings)
    found = []
    for rate in settings.rates:
        rows = folder / f"rows-{rate:g}.jsonl"
        write_rows(rows, settings, rate, settings.steps * batch)
    for number, (weight, rate) in enumerate(itertools.product(settings.lambdas, settings.rates)):
        spec = {
            "folder": str(folder / f"trl-{number}"),
            "model": str(model),
            "rows": str(folder / f"rows-{rate:g}.jsonl"),
            "options": {
                "per_device_train_batch_size": batch,
                "max_length": MAX_LENGTH,
                "max_steps": settings.steps,
                "desirable_weight": weight,
                "bf16": False,
                "gradient_checkpointing": False,
                "report_to": "none",
                "save_strategy": "no",
                "disable_tqdm": True,
            },
        }
        command = [sys.executable, str(ENTRY), "trl-run", json.dumps(spec)]
        found.append(run(command, folder / f"trl-{number}.txt", threads=settings.threads))
    return found


def write_rows(file: Path, settings: Settings, rate: float, count: int) -> None:
    """Write so many rows of the training split, with wrong thumbs, in TRL's columns; from the start again if few."""
    cfg = data.composed([*words_of(settings), "corruption=label_noise", f"corruption.rate={rate:g}"])
    table = instantiate(cfg.corruption)(of_split(instantiate(cfg.feedback), "train")).table
    columns = [table[name][:] for name in ("prompt", "completion", "desirable")]
    rows = list(zip(*columns, strict=True))
    order = np.random.default_rng(data.SEED).permutation(len(rows))
    lines = []
    for place in range(count):
        prompt, completion, label = rows[order[place % len(rows)]]
        answer = completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
        lines.append(json.dumps({"prompt": prompt, "completion": answer, "label": bool(label)}) + "\n")
    write_text(file, "".join(lines))
