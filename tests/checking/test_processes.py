"""Several processes: a note without GPUs for them, failures where a command fails or computes something else."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from kto_lab.checking import processes
from kto_lab.checking.settings import QUICK
from kto_lab.training.callbacks import METRICS
from tests.checking.verdicts import limits, verdicts


def test_without_two_gpus_it_is_a_note() -> None:
    row = processes.several(QUICK, limits())
    assert not isinstance(row, list) and row.verdict == "note" and "there is none" in row.measured


def pretend_commands(monkeypatch: pytest.MonkeyPatch, folder: Path, *, losses: list[float], code: int) -> None:
    def ran(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        (folder / "ddp").mkdir(exist_ok=True)
        (folder / "ddp" / METRICS).write_text("".join(f"{line}\n" for line in ["loss", *losses]))
        return subprocess.CompletedProcess(command, code, "", "NCCL error")

    monkeypatch.setattr(subprocess, "run", ran)
    record = {"training": {"balance": {"slowest_over_mean": 1.25}}}
    monkeypatch.setattr(processes, "read_record", lambda folder: record)


@pytest.mark.parametrize(
    ("losses", "code", "verdict", "said"),
    [
        ([0.5, 0.4], 0, "ok", "0.0e+00 (the slowest process has 1.25 times"),
        ([0.5, 0.41], 0, "failed", "2.0e-02"),
        ([0.5], 0, "failed", "1 steps"),
        ([0.5, 0.4], 1, "failed", "NCCL error"),
    ],
)
def test_losses_of_two_processes_are_compared_with_those_of_one(
    losses: list[float], code: int, verdict: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_commands(monkeypatch, tmp_path, losses=losses, code=code)
    row = processes._strategy("ddp", tmp_path, [0.5, 0.4], limits(), "gpu")
    assert row.verdict == verdict and said in row.measured


def test_a_sweep_that_leaves_a_cell_out_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_commands(monkeypatch, tmp_path, losses=[], code=0)
    assert processes.sweep(tmp_path, "gpu").verdict == "failed"


@pytest.mark.slow
def test_two_processes_on_the_cpu_train_and_sweep() -> None:
    rows = processes.several(QUICK, limits(), "cpu")
    assert isinstance(rows, list) and set(verdicts(rows).values()) == {"ok"}, rows
