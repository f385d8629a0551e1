"""Training that stops and goes on: the same weights, bit for bit, and the same metrics."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kto_lab.errors import LabError
from kto_lab.runs import train as run_module
from kto_lab.runs.record import RECORD
from kto_lab.training.callbacks import METRICS
from kto_lab.training.checkpoints import last_checkpoint
from kto_lab.training.module import AlignmentModule
from kto_lab.training.reference import ReferencePass
from tests.damage import flip
from tests.small_runs import metrics, overrides, run
from tests.training.checkpoints import assert_holds_what_is_trained

# Three epochs of 36 examples in batches of four: 27 steps, cut to six.
SIX = ("optimization.max_steps=6", "optimization.checkpoint_every=2", "evaluation=none")
RUNNING = ("reference_point@loss.reference_point=running_mean",)
LORA = ("adapter=lora", "adapter.dropout=0.1", "adapter.rank=4")


class StopError(Exception):
    """What stops a run in these tests."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, how: Any = StopError) -> None:
    """Stop in the middle of a step (from 1): after its forward and backward passes, before the weights change."""
    whole = AlignmentModule.reference_point

    def stopping(self: AlignmentModule, batch: Any, ahead: Any = None) -> Any:
        if batch.number + 1 == step:
            raise how
        return whole(self, batch, ahead)

    monkeypatch.setattr(AlignmentModule, "reference_point", stopping)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "policy").glob("*.safetensors")
    return load_file(file)


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / METRICS).read_bytes() == (other / METRICS).read_bytes()
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(scope="module", params=[(), LORA, RUNNING], ids=["full", "lora", "running mean"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(folder, *SIX, *request.param), request.param


@pytest.mark.parametrize(("step", "checkpoint"), [(2, "stopped.ckpt"), (4, "stopped.ckpt"), (5, "step=4.ckpt")])
def test_a_stopped_run_goes_on_bit_for_bit(
    undisturbed: tuple[Path, tuple[str, ...]],
    step: int,
    checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight, adapter = undisturbed
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(StopError):
            run(tmp_path, *SIX, *adapter)
    folder = tmp_path / "run"
    assert not (folder / RECORD).exists() and not (folder / "policy").exists()
    assert len(metrics(folder)) == step - 1
    if checkpoint != "stopped.ckpt":
        (folder / "checkpoints" / "stopped.ckpt").unlink()
    kept = last_checkpoint(folder / "checkpoints")
    assert kept is not None and kept.name == checkpoint
    assert_holds_what_is_trained(kept, trained=weights(straight) if adapter == LORA else None)
    run(tmp_path, *SIX, *adapter)
    assert_same_run(straight, folder)
    # Nothing is left to resume.
    assert not (folder / "checkpoints").exists()


def test_half_a_step_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.AdamW.step
    calls = []

    def halfway(self: Any, *arguments: Any, **more: Any) -> Any:
        found = step(self, *arguments, **more)
        # The optimiser is tried on a few small parameters, too.
        calls.extend([1] * (len(self.param_groups[0]["params"]) > 2))
        if len(calls) == 3:
            raise StopError
        return found

    (tmp_path / "straight").mkdir()
    straight = run(tmp_path / "straight", *SIX)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", halfway)
        (tmp_path / "broken").mkdir()
        with pytest.raises(StopError):
            run(tmp_path / "broken", *SIX)
    assert [path.name for path in (tmp_path / "broken/run/checkpoints").iterdir()] == ["step=2.ckpt"]
    run(tmp_path / "broken", *SIX)
    assert_same_run(straight, tmp_path / "broken/run")


def test_a_run_that_stops_before_its_first_step_can_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(ReferencePass, "setup", refuse)
        with pytest.raises(StopError):
            run(tmp_path, *SIX)
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert len(metrics(run(tmp_path, *SIX))) == 6


def test_training_is_not_repeated_when_what_follows_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StopError

    five = ("optimization.max_steps=5", *SIX[1:])
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_and_compare", refuse)
        with pytest.raises(StopError):
            run(tmp_path, *five)
    # The checkpoint holds the rows: what a disk has done to the file is not carried on.
    before = (tmp_path / "run" / METRICS).read_bytes()
    flip(tmp_path / "run" / METRICS)
    with monkeypatch.context() as patch:
        patch.setattr(AlignmentModule, "training_step", refuse)
        folder = run(tmp_path, *five)
    assert (folder / METRICS).read_bytes() == before
    (tmp_path / "other").mkdir()
    assert_same_run(run(tmp_path / "other", *five), folder)


KILLED = """
import os, signal, sys
from kto_lab import cli
from kto_lab.training.callbacks import StepMetrics
append = StepMetrics._append
def then_die(self, row):
    append(self, row)
    if row.startswith("5,"):
        os.kill(os.getpid(), signal.SIGKILL)
StepMetrics._append = then_die
sys.argv = ["kto-lab", "train", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    words = overrides(tmp_path, *SIX)
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(metrics(tmp_path / "run")) == 5
    again = subprocess.run(
        [sys.executable, "-m", "kto_lab.cli", "train", *words], capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stderr
    assert "going on from step 4" in again.stdout
    (tmp_path / "straight").mkdir()
    assert_same_run(run(tmp_path / "straight", *SIX), tmp_path / "run")


def test_a_damaged_checkpoint_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(StopError):
            run(tmp_path, *SIX)
    checkpoints = tmp_path / "run" / "checkpoints"
    stopped = checkpoints / "stopped.ckpt"
    stopped.write_bytes(stopped.read_bytes()[:5000])
    (checkpoints / "empty.ckpt").touch()
    shutil.copyfile(checkpoints / "step=2.ckpt", checkpoints / "flipped.ckpt")
    flip(checkpoints / "flipped.ckpt")
    assert last_checkpoint(checkpoints) == checkpoints / "step=2.ckpt"
    said = capsys.readouterr().out
    assert all(said.count(f"{name}.ckpt is damaged") == 1 for name in ("stopped", "empty", "flipped"))
    assert "going on from step 2" in said and (checkpoints / "stopped.ckpt.damaged").exists()
    run(tmp_path, *SIX)
    (tmp_path / "straight").mkdir()
    assert_same_run(run(tmp_path / "straight", *SIX), tmp_path / "run")


def test_no_folder_means_no_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None


def test_the_loss_at_the_first_step_is_the_closed_form(tmp_path: Path) -> None:
    for loss, wanted in (("kto", 0.5), ("dpo", 0.6931472)):
        (tmp_path / loss).mkdir()
        more = ["weighting@loss.weighting=fixed"] if loss == "kto" else []
        rows = metrics(run(tmp_path / loss, f"loss={loss}", "optimization.max_steps=2", *more))
        assert float(rows[0]["loss"]) == pytest.approx(wanted, abs=1e-5)
        assert float(rows[0]["reward_margin"]) == pytest.approx(0, abs=1e-4)
        assert rows[1]["loss"] != rows[0]["loss"]


@pytest.mark.parametrize(
    "checkpointing", ["optimization.gradient_checkpointing=true", "optimization.micro_batch_tokens=8"]
)
def test_what_saves_memory_gives_the_same_weights(tmp_path: Path, checkpointing: str) -> None:
    folders = []
    for name, more in (("plain", []), ("saving", [checkpointing])):
        (tmp_path / name).mkdir()
        folders.append(run(tmp_path / name, "optimization.max_steps=3", *more))
    mine, theirs = map(weights, folders)
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=2e-5)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = AlignmentModule.losses

    def breaking(self: AlignmentModule, logps: torch.Tensor, *arguments: Any) -> torch.Tensor:
        found = whole(self, logps, *arguments)
        return found * torch.nan if self.trainer.global_step == 3 else found

    with monkeypatch.context() as patch:
        patch.setattr(AlignmentModule, "losses", breaking)
        with pytest.raises(LabError, match=r"loss is nan at step 4\. Training stopped before the policy was changed"):
            run(tmp_path, *SIX)
    folder = tmp_path / "run"
    assert not (folder / RECORD).exists() and len(metrics(folder)) == 3
    kept = torch.load(folder / "checkpoints" / "stopped.ckpt", weights_only=True)
    assert kept["global_step"] == 3
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    # Without the fault, it goes on as if nothing had been.
    run(tmp_path, *SIX)
    (tmp_path / "straight").mkdir()
    assert_same_run(run(tmp_path / "straight", *SIX), folder)


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from kto_lab import cli
from kto_lab.training.module import AlignmentModule
start = AlignmentModule.on_train_start
def then_full(self):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
AlignmentModule.on_train_start = then_full
sys.argv = ["kto-lab", "train", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_said_and_leaves_no_part(tmp_path: Path) -> None:
    words = overrides(tmp_path, *SIX)
    done = subprocess.run([sys.executable, "-c", FULL, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "Could not write" in done.stderr and "step=2.ckpt: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    folder = tmp_path / "run"
    assert not list((folder / "checkpoints").iterdir())
    assert not (folder / RECORD).exists() and not (folder / "policy").exists()
    run(tmp_path, *SIX)
    assert (folder / RECORD).exists()
