"""`benchmark.py keys`: what a key of `kto-lab train` costs in a step, against the same step as it comes.

Each setting is a process of its own; they take turns as the contestants of `steps` do, and every ratio is of one round.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import machine, showing
from benchmarks.contestants import start_once, take_turns
from benchmarks.jobs import OURS
from benchmarks.steps import Settings, prepared, spread
from kto_lab.files import write_json

AS_IT_COMES = "as it comes"
DEFAULT = (
    "optimization.micro_batch_tokens=8192",
    "optimization.micro_batch_tokens=1024",
    "optimization.micro_batch_tokens=512",
    "optimization.gradient_checkpointing=true",
    "optimization.gradient_checkpointing=true optimization.micro_batch_tokens=512",
)


def main(settings: Settings, tried: Sequence[str], target: Path) -> Path:
    """Measure, print a table, and save it.

    Args:
        settings: of the steps; the contestants are not asked for.
        tried: each some words for `kto-lab train`, with spaces between.
        target: folder of the results.
    """
    described = machine.described()
    found = measure(settings, tried)
    result: dict[str, Any] = {
        "kind": "keys",
        "machine": described,
        "settings": {name: value for name, value in vars(settings).items() if name != "contestants"},
        "keys": found,
    }
    showing.show_rows(showing.title(result["settings"]), found)
    file = target / f"{settings.name.replace('steps', 'keys', 1)}.json"
    write_json(file, result)
    return file


def measure(settings: Settings, tried: Sequence[str]) -> list[dict[str, Any]]:
    """A row each setting: its seconds per step, and its peak of memory in measured steps, both over the default's."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        job, _ = prepared(settings, Path(folder))
        # So that all of them find the reference log-probs in the store.
        start_once(replace(job, contestant=OURS, folder=f"{folder}/first"))
        jobs = [
            replace(job, folder=f"{folder}/{place}", overrides=(*job.overrides, *words.split()), forgets=True)
            for place, words in enumerate(["", *tried])
        ]
        runs = take_turns(jobs, settings.warmup + settings.rounds)
    default, *_ = measured = [one.steps[settings.warmup :] for one in runs]
    return [row(words, steps, default) for words, steps in zip([AS_IT_COMES, *tried], measured, strict=True)]


def row(words: str, steps: Sequence[dict[str, Any]], default: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a setting did in its measured steps, beside those of the default."""
    ratios = [mine["seconds"] / base["seconds"] for mine, base in zip(steps, default, strict=True)]
    return {
        "setting": words,
        "seconds per step": showing.ranged(spread([step["seconds"] for step in steps])),
        "times the default's": showing.ranged(spread(ratios)),
        "MiB over the default's peak": round((steps[-1]["peak"] - default[-1]["peak"]) / 2**20),
        "peak GiB": steps[-1]["peak"] / 2**30,
    }
