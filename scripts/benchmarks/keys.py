"""`benchmark.py keys`: what a key of `kto-lab train` costs in a step, against the same step as it comes.

Each setting is a process of its own; they take turns as the contestants of `steps` do, and every ratio is of one round.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import machine, showing
from benchmarks.contestants import Contestant, start_once, take_turns
from benchmarks.jobs import OURS
from benchmarks.steps import Settings, prepared, ratios, spread
from kto_lab.files import write_json

AS_IT_COMES = "as it comes"
DEFAULT = (
    "optimization.micro_batch_tokens=8192",
    "optimization.micro_batch_tokens=1024",
    "optimization.micro_batch_tokens=512",
    "optimization.gradient_checkpointing=true",
    "optimization.gradient_checkpointing=true optimization.micro_batch_tokens=512",
)


@dataclass(frozen=True)
class Setting:
    """What is tried: words for `kto-lab train`, and how they did."""

    words: str
    run: Contestant


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
    file = target / f"keys-{settings.model}-batch{settings.batch}.json"
    write_json(file, result)
    return file


def measure(settings: Settings, tried: Sequence[str]) -> list[dict[str, Any]]:
    """A row each setting: its seconds a step, and its peak of memory in measured steps, both over the default's."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        job, _ = prepared(settings, Path(folder))
        # So that all of them find the reference log-probs in the store.
        start_once(replace(job, contestant=OURS, folder=f"{folder}/first"))
        jobs = [
            # Folders that begin alike say that these ran side by side; see `steps.ratios`.
            replace(job, folder=f"{folder}/0-{place}", overrides=(*job.overrides, *words.split()), forgets=True)
            for place, words in enumerate(["", *tried])
        ]
        runs = take_turns(jobs, settings.warmup + settings.rounds)
    settings_tried = [Setting(words, run) for words, run in zip([AS_IT_COMES, *tried], runs, strict=True)]
    return [row(one, runs[0], settings.warmup) for one in settings_tried]


def row(setting: Setting, default: Contestant, warmup: int) -> dict[str, Any]:
    """What a setting did."""
    steps, base = setting.run.steps[warmup:], default.steps[warmup:]
    return {
        "setting": setting.words,
        "seconds a step": showing.ranged(spread([step["seconds"] for step in steps])),
        "times the default's": showing.ranged(spread(ratios([setting.run], [default], warmup))),
        "MiB over the default's peak": round((steps[-1]["peak"] - base[-1]["peak"]) / 2**20),
        "peak GiB": steps[-1]["peak"] / 2**30,
    }
