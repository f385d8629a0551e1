"""Offline runs of Weights & Biases, read back with its own reader."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

Records = list[dict[str, Any]]


def offline_runs(folder: Path) -> list[Records]:
    """The records of each offline run under a folder, in the order in which they were begun."""
    return [read_back(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=_begun)]


def _begun(path: Path) -> tuple[str, int]:
    """The second in the folder's name, and the number that tells runs of one second apart."""
    _, _, second, run = path.parent.name.split("-", 3)
    return second, int(run.rpartition("-")[2]) if "-" in run else 0


def read_back(run: Path) -> Records:
    command = shutil.which("wandb", path=Path(sys.executable).parent) or "wandb"
    done = subprocess.run(
        [command, "leet", "inspect", "--json", str(run)], capture_output=True, text=True, check=True, timeout=120
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def about(records: Records) -> dict[str, Any]:
    """What a run is: id, group, name, job type, tags, configuration."""
    return next(record["run"] for record in records if record["type"] == "run")


def merged(records: Records, kind: str) -> dict[str, Any]:
    """All updates of one kind of record (config, summary), the last one winning."""
    result: dict[str, Any] = {}
    for record in records:
        if record["type"] == kind:
            result |= record[kind].get("update", {})
    return result


def history(records: Records) -> Records:
    """What was logged, one row per step."""
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def tables(folder: Path) -> dict[str, Any]:
    """The tables of a folder's offline runs, by what they are called; of several with one name the last."""
    found = sorted(
        folder.glob("wandb/offline-run-*/files/media/table/**/*.table.json"), key=lambda file: file.stat().st_mtime_ns
    )
    return {file.name.rsplit("_", 2)[0]: json.loads(file.read_text()) for file in found}
