"""Checks of runs of several processes, by the commands themselves: ddp, fsdp, and a sweep of two cells."""

import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from kto_lab.checking.comparing import ADVICE, largest, within
from kto_lab.checking.row import Row, judged, note
from kto_lab.checking.runs import configuration, prepare, run, words
from kto_lab.checking.settings import Limits, Size
from kto_lab.quoting import quoted
from kto_lab.runs.record import RECORD, read_record
from kto_lab.training.callbacks import METRICS

PROCESSES = 2
MINUTES = 4
LOSS = ("loss=kto", "optimization.batch_size=16")
LAUNCHER = "hydra_plugins.hydra_joblib_launcher"
STUDY = """# Two cells.
name: check
question: Do cells run side by side?
arms: {kto: []}
grid: {loss.beta: "0.1,0.2"}
seeds: [0]
"""


def several(size: Size, limits: Limits, accelerator: str = "gpu") -> Row | list[Row]:
    """A row each for ddp, fsdp, and a sweep whose cells run side by side.

    Args:
        size: of the policy.
        limits: of differences.
        accelerator: of the processes; "gpu" needs two GPUs.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator == "gpu" and gpus < PROCESSES:
        return note("two GPUs", "there is one" if gpus else "there is none")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, size)
        one = run(configuration(words(folder, "one", *LOSS, f"trainer.accelerator={accelerator}")))
        rows = [_strategy(strategy, folder, one, limits, accelerator) for strategy in ("ddp", "fsdp")]
        return [*rows, sweep(folder, accelerator)]


def _strategy(strategy: str, folder: Path, one: Sequence[float], limits: Limits, accelerator: str) -> Row:
    """The losses of two processes against those of one."""
    more = (f"trainer={strategy}", f"trainer.devices={PROCESSES}", f"trainer.accelerator={accelerator}")
    name = f"{strategy}, {PROCESSES} processes"
    if said := _refusal("train", words(folder, strategy, *LOSS, *more)):
        return judged(name, said, limit="runs", holds=False, mend=ADVICE)
    with (folder / strategy / METRICS).open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    if len(losses) != len(one):
        return judged(name, f"{len(losses)} steps", limit=f"{len(one)} steps", holds=False, mend=ADVICE)
    error = largest([abs(a - b) / one[0] for a, b in zip(losses, one, strict=True)])
    balance = read_record(folder / strategy)["training"]["balance"]["slowest_over_mean"]
    where = f"the slowest process has {balance:.2f} times the tokens of the mean"
    return within(name, error, limits.curves, where=where)


def sweep(folder: Path, accelerator: str) -> Row:
    """Two cells side by side, each in a process of its own, and with a GPU of its own where cells use one.

    Args:
        folder: that was prepared.
        accelerator: of the cells.
    """
    name, runs = "two cells in one sweep", folder / "runs"
    if find_spec(LAUNCHER) is None:
        return note(name, "their launcher is not installed: pip install 'kto-lab[joblib]'")
    (folder / "own" / "study").mkdir(parents=True)
    (folder / "own" / "study" / "check.yaml").write_text(STUDY, encoding="utf-8")
    given = [word for word in words(folder, "", *LOSS) if not word.startswith("run_dir=")]
    study = ["study=check", "--config-dir", str(folder / "own"), f"runs_dir={quoted(str(runs))}"]
    said = _refusal("sweep", [*study, *given, f"trainer.accelerator={accelerator}", "hydra/launcher=processes"])
    done = len(list(runs.rglob(RECORD)))
    return judged(name, said or f"{done} done", limit="2 done", holds=not said and done == 2, mend=ADVICE)


def _refusal(command: str, given: Sequence[str]) -> str:
    """The end of what a command says where it fails; "" where it does not."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "kto_lab", command, *given], capture_output=True, text=True, timeout=60 * MINUTES
        )
    except subprocess.TimeoutExpired:
        return f"not done after {MINUTES} minutes"
    return "" if done.returncode == 0 else " ".join((done.stderr or done.stdout).split())[-300:] or "no word"
