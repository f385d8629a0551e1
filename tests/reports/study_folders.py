"""Folders of studies for the tests: cells with records that are the demo's but for their numbers."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kto_lab.runs.scores import KEPT
from kto_lab.sealed import write_json
from kto_lab.statistics import Estimate, proportion_interval

DEMO = Path(__file__).resolve().parents[2] / "results" / "demo" / "seed0.json"
SEEDS = (0, 1, 2)
PROMPTS = 60


@cache
def _demo() -> dict[str, Any]:
    return json.loads(DEMO.read_text(encoding="utf-8"))


def record(seed: int, *, scores: Sequence[float], kl: float = 5.0, config: Mapping[str, Any] | None = None) -> Any:
    """A record of the demo's shape, whose numbers do not move when the demo is made again.

    Its answers have these scores (of pass or fail).
    """
    found = copy.deepcopy(_demo())
    found["seeds"]["seed"] = found["config"]["seed"] = seed
    found["config"] |= config or {}
    found["timings"] = {"training": 500.0, "evaluation after": 36.0}
    passed = proportion_interval(int(sum(scores)), len(scores))
    found["metrics"]["answers"]["pass_rate"]["trained"] = passed.as_dict()
    found["metrics"]["kl"] = Estimate(kl, kl - 1, kl + 1, 32).as_dict()
    return found


def prompt_scores(scores: Sequence[float]) -> dict[str, dict[str, float]]:
    """What `evaluation/scores.json` holds of a run whose answers pass or fail like this."""
    prompts = [f"p{place}" for place in range(len(scores))]
    lengths = [10 + place % 7 for place in range(len(scores))]
    return {
        "pass_rate": dict(zip(prompts, map(float, scores), strict=True)),
        "answer_length": dict(zip(prompts, map(float, lengths), strict=True)),
        "finished": dict.fromkeys(prompts, True),
    }


def write_run(folder: Path, seed: int, scores: Sequence[float], **more: Any) -> None:
    write_json(folder / "record.json", record(seed, scores=scores, **more))
    write_json(folder / KEPT, prompt_scores(scores))


def draw(rate: float, seed: int, prompts: int = PROMPTS) -> list[float]:
    """Pass or fail of each prompt. Prompts differ in how hard they are, the same for every rate and seed."""
    hardness = np.random.default_rng(99).normal(0, 0.15, prompts)
    luck = np.random.default_rng([seed, int(rate * 1e6)])
    return [float(one) for one in luck.random(prompts) < np.clip(rate + hardness, 0, 1)]


def write_study(
    folder: Path,
    cells: Sequence[Mapping[str, Any]],
    run: Callable[[Path, Mapping[str, Any]], None],
    *,
    tables: Sequence[Mapping[str, Any]] = (),
    figures: Sequence[Mapping[str, Any]] = (),
    contrasts: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """A study of these choices; `run` writes what became of a cell into its folder. Returns the study's folder."""
    home = folder / "studies" / "noise"
    listed = []
    for number, choices in enumerate(cells):
        where = folder / "cells" / f"{number:04x}"
        where.mkdir(parents=True)
        run(where, choices)
        listed.append({"choices": dict(choices), "run_id": where.name, "folder": f"../../cells/{where.name}"})
    shown = {"tables": list(tables), "figures": list(figures), "contrasts": list(contrasts)}
    study = {"name": "noise", "question": "Does noise hurt?", **shown}
    write_json(home / "study.json", {"study": study, "cells": listed, "command": "kto-lab sweep study=noise"})
    return home


def grid(seeds: Sequence[int] = SEEDS, **values: Sequence[Any]) -> list[dict[str, Any]]:
    """The product of choices and seeds; "__" in a name stands for a dot."""
    cells: list[dict[str, Any]] = [{}]
    for name, options in [*values.items(), ("seed", seeds)]:
        cells = [{**cell, name.replace("__", "."): option} for cell in cells for option in options]
    return cells


def by_rate(rates: Mapping[str, float], slope: float = 0.5) -> Callable[[Path, Mapping[str, Any]], None]:
    """Runs whose pass rate is that of their arm, less `slope` times the noise."""

    def run(folder: Path, choices: Mapping[str, Any]) -> None:
        noise = choices.get("corruption.rate", 0)
        rate = rates[choices["arm"]] - slope * noise
        kl = 4 + 10 * rates[choices["arm"]] + choices["seed"] / 5 - 3 * noise
        config = {"corruption": {"rate": noise}, "loss": {"function": choices["arm"]}}
        write_run(folder, choices["seed"], draw(rate, choices["seed"]), kl=kl, config=config)

    return run


def fail(folder: Path, message: str = "It did not fit.") -> None:
    write_json(folder / "failure.json", {"error": message, "traceback": "Traceback: ..."})
