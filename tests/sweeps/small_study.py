"""For the tests: a small study of the tiny policy, swept by the command that a person would type."""

import json
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from kto_lab.quoting import quoted
from kto_lab.runs.record import read_record
from kto_lab.training.callbacks import METRICS
from tests.small_runs import SMALL, thumbs, write_jsonl

STUDY = """# A study for the tests.
name: small
question: Does a sweep do what it says?
arms: {kto: [loss=kto], sft: [loss=sft, loss.reward_beta=0.1]}
grid: {corruption.rate: "0,0.2"}
overrides: [corruption=label_noise]
seeds: [0]
"""


# What a folder's name may hold that means something to Hydra, a shell or a pattern.
ODD = "it's a, b=c [d] {e} (f) $g ü"


class Sweep:
    """A study of four small cells in a folder of its own, with a name that has to be quoted, swept by the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder = folder / ODD
        self.runs = folder / "runs"
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        (folder / "own" / "study").mkdir(parents=True)
        (folder / "own" / "study" / "small.yaml").write_text(STUDY)
        file = write_jsonl(folder / "thumbs.jsonl", thumbs())
        self.words = [
            *("study=small", "--config-dir", str(folder / "own"), f"runs_dir={quoted(self.runs)}"),
            *SMALL,
            *(f"feedback.path={quoted(file)}", "feedback.columns.split=split"),
            *("optimization.max_steps=4", "optimization.checkpoint_every=1"),
        ]

    def start(self, *more: str, limit: int | None = None) -> subprocess.Popen[str]:
        """Start the command; `limit`: bytes that a file may have."""
        command = [sys.executable, "-m", "kto_lab.cli", "sweep", *self.words, *more]
        return subprocess.Popen(
            command,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            preexec_fn=limit and partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
        )

    def run(self, *more: str, expect: int = 0, limit: int | None = None) -> str:
        process = self.start(*more, limit=limit)
        out, error = process.communicate(timeout=300)
        assert process.returncode == expect, out + error
        return out + error

    def cells(self) -> list[dict[str, Any]]:
        return json.loads((self.runs / "studies" / "small" / "study.json").read_text())["cells"]

    def folders(self) -> list[Path]:
        home = self.runs / "studies" / "small"
        return [(home / cell["folder"]).resolve() for cell in self.cells()]


def same(one: Path, other: Path) -> None:
    assert (one / METRICS).read_bytes() == (other / METRICS).read_bytes()
    mine, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (one, other))
    assert all((mine[name] == theirs[name]).all() for name in mine)
    assert read_record(one)["metrics"] == read_record(other)["metrics"]
