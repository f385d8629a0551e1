"""Asked to stop in the middle of a step: the step is finished and saved, and the run goes on from there bit for bit."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from safetensors.torch import load_file

from kto_lab import cli
from kto_lab.stopping import Stopped, stoppable
from kto_lab.training.callbacks import METRICS
from kto_lab.training.checkpoints import LastCheckpoint, last_checkpoint
from kto_lab.training.stopping import StopWhenAsked, slurm
from tests.small_runs import metrics, overrides, run

# Checkpoints of their own are rarer than the steps.
SIX = ("optimization.max_steps=6", "optimization.checkpoint_every=100")


@pytest.fixture
def requeues() -> Iterator[list[int]]:
    """What a launcher does when asked: it notes which checkpoint there is, and exits."""
    calls: list[int] = []

    def requeue(signum: int, frame: object) -> None:
        calls.append(signum)
        raise SystemExit(-1)

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    signal.signal(signal.SIGUSR2, requeue)
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


def ask_in_step(monkeypatch: pytest.MonkeyPatch, step: int, *signals: int) -> None:
    """Send signals when the weights of a step (from 1) have changed, and nothing else of it is done."""
    begun, whole = StopWhenAsked.on_train_start, torch.optim.AdamW.step
    # Before training the optimiser is tried on a few parameters: those steps do not count.
    training: list[bool] = []
    calls = []

    def asking(self: Any, *arguments: Any, **more: Any) -> Any:
        found = whole(self, *arguments, **more)
        calls.extend(training)
        if training and len(calls) == step:
            for signum in signals or (signal.SIGUSR2,):
                os.kill(os.getpid(), signum)
        return found

    def begin(self: StopWhenAsked, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        begun(self, trainer, module)
        training.append(True)

    monkeypatch.setattr(torch.optim.AdamW, "step", asking)
    monkeypatch.setattr(StopWhenAsked, "on_train_start", begin)


@pytest.mark.parametrize("step", [1, 4])
def test_it_saves_the_step_it_is_in_and_goes_on_bit_for_bit(
    step: int, tmp_path: Path, requeues: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        ask_in_step(patch, step)
        with pytest.raises(SystemExit):
            run(tmp_path, *SIX)
    folder = tmp_path / "run"
    assert requeues == [signal.SIGUSR2]
    assert len(metrics(folder)) == step
    kept = last_checkpoint(folder / "checkpoints")
    assert kept is not None and torch.load(kept, weights_only=True)["global_step"] == step
    assert signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL
    run(tmp_path, *SIX)
    (tmp_path / "other").mkdir()
    straight = run(tmp_path / "other", *SIX)
    assert (straight / METRICS).read_bytes() == (folder / METRICS).read_bytes()
    mine, theirs = (load_file(made / "policy" / "model.safetensors") for made in (folder, straight))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not (folder / "checkpoints").exists()


def test_asked_after_the_last_step_it_ends_when_that_is_saved(
    tmp_path: Path, requeues: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = LastCheckpoint.on_train_end

    def asking(self: Any, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR2)
        ended(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_end", asking)
        with pytest.raises(SystemExit):
            run(tmp_path, *SIX)
    folder = tmp_path / "run"
    assert requeues == [signal.SIGUSR2]
    assert (folder / "checkpoints" / "step=6.ckpt").exists()
    before = (folder / METRICS).read_bytes()
    run(tmp_path, *SIX)
    assert (folder / METRICS).read_bytes() == before and (folder / "policy").exists()


def test_nobody_asks_where_there_is_no_launcher(tmp_path: Path) -> None:
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    run(tmp_path, *SIX)
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_lightning_does_not_requeue_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm() == []
    monkeypatch.setenv("SLURM_NTASKS", "1")
    (found,) = slurm()
    assert isinstance(found, SLURMEnvironment) and not found.auto_requeue


@pytest.mark.parametrize(
    ("signum", "status", "word"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")]
)
def test_told_to_stop_it_ends_with_the_status_that_a_shell_expects_and_goes_on(
    signum: int,
    status: int,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["kto-lab", "train", *overrides(tmp_path, *SIX)])
    usual = signal.getsignal(signum)
    with monkeypatch.context() as patch:
        ask_in_step(patch, 2, signum)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == status and signal.getsignal(signum) is usual
    said = capsys.readouterr().err
    assert f"stopped by {word}. Step 2 is saved. The same command with run_dir={folder} goes on" in said
    assert "Traceback" not in said and len(metrics(folder)) == 2
    cli.main()
    (tmp_path / "other").mkdir()
    straight = run(tmp_path / "other", *SIX)
    assert (straight / METRICS).read_bytes() == (folder / METRICS).read_bytes()


def test_told_twice_it_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stoppable(), monkeypatch.context() as patch:
        ask_in_step(patch, 2, signal.SIGTERM, signal.SIGTERM)
        with pytest.raises(Stopped) as ended:
            run(tmp_path, *SIX)
    assert ended.value.saved == "" and ended.value.code == 143


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_outside_of_training_it_ends_with_the_same_status_and_a_sentence(
    signum: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kto-lab", "cache"])
    monkeypatch.setattr("kto_lab.cache.cache", lambda cfg: os.kill(os.getpid(), signum))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 128 + signum
    assert capsys.readouterr().err.startswith("\nstopped by ")


def test_a_handler_of_someone_else_stays(tmp_path: Path) -> None:
    own: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: own.append(number))
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert own == [signal.SIGTERM]
