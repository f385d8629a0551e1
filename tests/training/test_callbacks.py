import csv
import errno
import io
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from rich.console import Console
from torch.utils.data import DataLoader

from kto_lab import console, narration
from kto_lab.errors import LabError
from kto_lab.training.callbacks import METRICS, StepMetrics, TrainingProgress


class Module(pl.LightningModule):
    """Manual optimisation on constant data; returns the step's metrics, one of them in every other step only."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.weight.weight, 0.7)
        torch.nn.init.constant_(self.weight.bias, 0.0)
        self.fail_at = fail_at

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> dict[str, float]:
        before = self.global_step
        if before + 1 == self.fail_at:
            raise LabError("the loss is NaN")
        optimizer = self.optimizers()
        loss = self.weight(batch).square().mean()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        metrics = {"train/loss": loss.item(), "train/reward_margin": 0.25, "train/tokens": 123456789.0}
        if before % 2:
            metrics["train/reward_desirable"] = before / 7
        return metrics


class Memory(Logger):
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int | None, dict[str, float]]] = []

    name = version = "memory"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen.append((step, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def train(folder: Path, *callbacks: Callback, steps: int = 6, fail_at: int | None = None, **trainer: Any) -> None:
    resume = trainer.pop("ckpt_path", None)
    pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=trainer.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **trainer,
    ).fit(Module(fail_at), DataLoader(torch.ones(8, 1), batch_size=1), ckpt_path=resume)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / METRICS).open()))


def every_two(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1)


def test_one_row_a_step_exact_and_blank_where_a_step_has_no_value(tmp_path: Path) -> None:
    train(tmp_path, StepMetrics(tmp_path), enable_checkpointing=False)
    found = rows(tmp_path)
    assert list(found[0]) == ["step", "loss", "reward_margin", "tokens", "reward_desirable"]
    assert [row["step"] for row in found] == ["1", "2", "3", "4", "5", "6"]
    assert [row["reward_desirable"] for row in found] == ["", repr(1 / 7), "", repr(3 / 7), "", repr(5 / 7)]
    # In float32, as Lightning keeps what is logged, this is 123456792.
    assert float(found[0]["tokens"]) == 123456789
    assert float(found[0]["loss"]) == pytest.approx(0.49)


def test_loggers_get_the_same_with_the_step_that_is_done(tmp_path: Path) -> None:
    memory = Memory()
    train(tmp_path, StepMetrics(tmp_path), steps=2, enable_checkpointing=False, logger=[memory])
    assert [step for step, _ in memory.seen] == [1, 2]
    assert "train/reward_desirable" not in memory.seen[0][1]
    assert memory.seen[1][1]["train/reward_desirable"] == 1 / 7


def test_a_row_is_on_disk_before_its_checkpoint(tmp_path: Path) -> None:
    rows_at_save: list[int] = []

    class Spy(ModelCheckpoint):
        def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
            rows_at_save.append(len(rows(tmp_path)))

    train(tmp_path, Spy(tmp_path, every_n_train_steps=2, save_top_k=-1), StepMetrics(tmp_path), steps=4)
    assert rows_at_save[:2] == [2, 4]


def test_the_file_of_a_resumed_run_equals_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(straight, StepMetrics(straight), every_two(straight))
    with pytest.raises(LabError):
        train(broken, StepMetrics(broken), every_two(broken), fail_at=6)
    assert [row["step"] for row in rows(broken)] == ["1", "2", "3", "4", "5"]
    # A crash in the middle of a row.
    with (broken / METRICS).open("a") as file:
        file.write("6,0.1")
    train(broken, StepMetrics(broken), every_two(broken), ckpt_path=broken / "checkpoints" / "step=4.ckpt")
    assert (broken / METRICS).read_bytes() == (straight / METRICS).read_bytes()


def test_a_new_run_does_not_keep_rows_of_an_old_one(tmp_path: Path) -> None:
    for steps in (4, 2):
        train(tmp_path, StepMetrics(tmp_path), steps=steps, enable_checkpointing=False)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]


def test_a_full_disk_stops_the_run_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", **kwargs: Any) -> Any:
        if self.name == METRICS and mode == "a":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(LabError, match=r"metrics\.csv: No space left.*resume"):
        train(tmp_path, StepMetrics(tmp_path), enable_checkpointing=False)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    fake = Console(file=text, force_terminal=False, width=80)
    monkeypatch.setattr(console, "console", lambda: fake)
    monkeypatch.setattr(narration, "_narrator", console)
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    return text


def test_progress_counts_steps_and_shows_loss_and_margin(tmp_path: Path, screen: io.StringIO) -> None:
    train(tmp_path, TrainingProgress(), steps=4, enable_checkpointing=False)
    lines = screen.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"    training {step}/4" for step in (1, 2, 3, 4)]
    assert lines[0].endswith("loss 0.490, margin +0.250")


def test_progress_of_a_resumed_run_starts_where_it_goes_on(tmp_path: Path, screen: io.StringIO) -> None:
    train(tmp_path, every_two(tmp_path), steps=2)
    train(tmp_path, TrainingProgress(), steps=4, ckpt_path=tmp_path / "checkpoints" / "step=2.ckpt")
    lines = screen.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["    training 3/4", "    training 4/4"]


def test_progress_gives_the_screen_back_on_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    fake = Console(file=text, force_terminal=True, width=80)
    monkeypatch.setattr(console, "console", lambda: fake)
    monkeypatch.setattr(narration, "_narrator", console)
    with pytest.raises(LabError):
        train(tmp_path, TrainingProgress(), fail_at=2, enable_checkpointing=False)
    show_cursor = "\x1b[?25h"
    assert show_cursor in text.getvalue()
