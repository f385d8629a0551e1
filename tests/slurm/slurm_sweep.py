"""For the tests: a small study, swept on a one-node Slurm by the command that a person would type."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from kto_lab.runs.job import LOG
from kto_lab.runs.record import read_record
from kto_lab.training.callbacks import METRICS
from tests.slurm.one_node import wait_until

STUDY = """# A study for the tests.
name: small
question: Does a sweep on Slurm do what it says?
arms: {kto: [loss=kto]}
grid: {corruption.rate: "0"}
overrides: [corruption=label_noise, evaluation.prompts=20, evaluation.reward_examples=20, evaluation.kl_prompts=0]
seeds: [0]
"""
SLURM = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1"]


class Sweep:
    """`kto-lab sweep study=small scale=tiny` in a folder of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        (folder / "own" / "study").mkdir(parents=True)
        (folder / "own" / "study" / "small.yaml").write_text(STUDY)
        self.words = ["study=small", "scale=tiny", "--config-dir", "own", *words]

    def start(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("kto-lab")), "sweep", *self.words, *more],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
        )

    def run(self, *more: str, expect: int = 0) -> str:
        return ended(self.start(*more), expect)

    def folders(self) -> list[Path]:
        home = self.runs / "studies" / "small"
        cells = json.loads((home / "study.json").read_text())["cells"]
        return [(home / cell["folder"]).resolve() for cell in cells]

    def scripts(self) -> list[str]:
        """What was handed to sbatch, each time."""
        found = sorted(self.runs.glob("slurm/*/*_submission.sh"), key=lambda path: path.stat().st_mtime_ns)
        return [path.read_text() for path in found]

    def wait_for_step(self, step: int, process: subprocess.Popen[str]) -> Path:
        """Wait until a cell has done so many steps; returns its folder."""

        def reached() -> bool:
            assert process.poll() is None, process.communicate()[0]
            files = list(self.runs.glob(f"cells/*/{METRICS}"))
            return bool(files) and len(files[0].read_text().splitlines()) > step

        wait_until(reached, f"step {step}", within=300)
        (folder,) = self.runs.glob("cells/*")
        return folder


def ended(process: subprocess.Popen[str], expect: int = 0) -> str:
    """What a sweep has said by its end."""
    out, _ = process.communicate(timeout=600)
    assert process.returncode == expect, out
    return out


def assert_same_run(one: Path, other: Path) -> None:
    """Two run folders tell the same, bit for bit."""
    assert (one / METRICS).read_bytes() == (other / METRICS).read_bytes()
    mine, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (one, other))
    assert all((mine[name] == theirs[name]).all() for name in mine)
    assert read_record(one)["metrics"] == read_record(other)["metrics"]


def assert_saved_where_it_was_asked(folder: Path) -> None:
    """The run was asked to stop, saved that step, and went on from it."""
    lines = (folder / LOG).read_text().splitlines()
    (asked,) = [line for line in lines if "asked to stop" in line]
    step = asked.split("step ")[1].split()[0]
    assert [line.strip() for line in lines if "going on" in line] == [f"going on from step {step} (stopped.ckpt)"]


def log_of_job(folder: Path) -> Path:
    """The log of the Slurm job that finished a run, as its record says."""
    return folder / read_record(folder)["files"]["log of the Slurm job"]
