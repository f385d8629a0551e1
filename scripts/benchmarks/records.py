"""Many records, made of the published ones by copying them with other numbers."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.commands import ROOT
from kto_lab.files import write_json

SOURCE = ROOT / "results" / "label_noise"
STUDY, RECORD, SCORES = "study.json", "record.json", "scores.parquet"
LINE = re.compile(r"^\s*missing\s.*?\b([0-9a-f]{16})\b")


def write_many(folder: Path, count: int) -> None:
    """Write a published study of so many records: the published one again and again, under further seeds.

    Args:
        folder: to write.
        count: records in all; of a part of the published ones, where that is fewer.
    """
    study = json.loads((SOURCE / STUDY).read_text(encoding="utf-8"))
    rng = np.random.default_rng(0)
    cells = [study["cells"][place] for place in rng.permutation(len(study["cells"]))]
    seeds = 1 + max(cell["choices"]["seed"] for cell in cells)
    found = []
    copies: list[dict[str, str]] = [{} for _ in range(-(-count // len(cells)))]
    for number in range(count):
        cell, turn = cells[number % len(cells)], number // len(cells)
        run_id = f"{number:016x}"
        record = json.loads((SOURCE / cell["folder"] / RECORD).read_text(encoding="utf-8"))
        seed = cell["choices"]["seed"] + turn * seeds
        record["run_id"] = run_id
        record["seeds"]["seed"] = record["config"]["seed"] = seed
        shift(record["metrics"], float(rng.normal(0, 0.01)))
        write_plain(folder / "cells" / run_id / RECORD, record)
        found.append({"choices": cell["choices"] | {"seed": seed}, "run_id": run_id, "folder": f"cells/{run_id}"})
        copies[turn][cell["run_id"]] = run_id
    write_json(folder / STUDY, study | {"cells": found})
    write_scores(folder / SCORES, copies)


def write_scores(file: Path, copies: Sequence[Mapping[str, str]]) -> None:
    """Write what each prompt scored in copied runs; `copies` map the identity of a published run to its copy's."""
    scores = pd.read_parquet(SOURCE / SCORES)
    parts = []
    for ids in copies:
        part = scores[scores["run"].isin(list(ids))]
        parts.append(part.assign(run=part["run"].map(dict(ids))))
    pd.concat(parts).to_parquet(file, index=False, compression="zstd")


def shift(values: dict[str, Any], by: float) -> None:
    """Move every estimate by so much, within [0, 1] where it was; in place."""
    for value in values.values():
        if not isinstance(value, dict):
            continue
        shift(value, by)
        if isinstance(value.get("value"), float) and isinstance(value.get("low"), float):
            share = value["low"] >= 0 and value["high"] <= 1
            for key in ("value", "low", "high"):
                moved = value[key] + by
                value[key] = min(1.0, max(0.0, moved)) if share else moved


def listed(said: str) -> list[str]:
    """The identities of the missing cells that a dry run lists."""
    return [found.group(1) for line in said.splitlines() if (found := LINE.match(line))]


def finish(runs: Path, identities: Sequence[str]) -> None:
    """Put a record of a finished run where each of these runs would be."""
    one = json.loads(next(SOURCE.glob(f"cells/*/{RECORD}")).read_text(encoding="utf-8"))
    for identity in identities:
        write_plain(runs / "cells" / identity / RECORD, copy.copy(one) | {"run_id": identity})


def write_plain(file: Path, value: Any) -> None:
    """Write JSON as a record is laid out, without waiting for the disk each time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
