"""Lightning callbacks: what happens beside the optimiser steps.

Both read what `training_step` returns, a mapping from "train/<name>" to a number. What `log_dict` logs would not
do: Lightning repeats a metric's last value in every later step that does not have it (the reward of a class that a step
has no example of), and rounds to float32.
"""

import csv
import io
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.files import write_text

METRICS = "metrics.csv"
PREFIX = "train/"


class StepMetrics(pl.Callback):
    """Every step's metrics: a row of `metrics.csv`, on disk before the step's checkpoint, and a call to each logger.

    Lightning's CSVLogger would not do: it deletes the file of a run that is resumed. Here a resumed run first cuts the
    rows of the steps that it is about to repeat, so that its file is the one an undisturbed run writes.
    """

    def __init__(self, folder: Path) -> None:
        """Write into this run folder."""
        self.path = folder / METRICS
        self.columns: list[str] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows up to the restored step; a new run starts with an empty file."""
        if not trainer.is_global_zero:
            return
        rows = [row for row in self._read() if int(row["step"]) <= trainer.global_step]
        self.columns = list(rows[0]) if rows else ["step"]
        self._rewrite(rows)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the step's row.

        Raises:
            LabError: the disk refuses.
        """
        if not trainer.is_global_zero:
            return
        step, metrics = trainer.global_step, step_metrics(outputs)
        if new := [name for name in metrics if name not in self.columns]:
            self.columns += new
            self._rewrite(self._read())
        self._append({"step": step, **metrics})
        for logger in trainer.loggers:
            logger.log_metrics({PREFIX + name: value for name, value in metrics.items()}, step=step)

    def _read(self) -> list[dict[str, str]]:
        """The rows of the file, without a last one that a crash cut short."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        return list(csv.DictReader(io.StringIO(whole)))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        write_text(self.path, self._lines([dict(zip(self.columns, self.columns, strict=True)), *rows]))

    def _append(self, row: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._lines([row]))
        except OSError as error:
            raise LabError(
                f"Could not write {self.path}: {error.strerror or error}. Free some space and run again to resume."
            ) from error

    def _lines(self, rows: list[dict[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue()


class TrainingProgress(pl.Callback):
    """A progress bar of optimiser steps, with the time left, the loss and the reward margin."""

    def __init__(self) -> None:
        """Nothing is shown before training starts."""
        self.shown = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the bar where a resumed run goes on."""
        total = int(trainer.estimated_stepping_batches)
        self.advance = self.shown.enter_context(narration.progress("training", total, done=trainer.global_step))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further."""
        metrics = step_metrics(outputs)
        parts = {"loss": "loss {:.3f}", "reward_margin": "margin {:+.3f}"}
        self.advance(1, ", ".join(text.format(metrics[name]) for name, text in parts.items() if name in metrics))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the full bar on the screen."""
        self.shown.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the screen back, so that the error can be read."""
        self.shown.close()


def step_metrics(outputs: Mapping[str, float]) -> dict[str, float]:
    """The metrics that `training_step` returned, without "train/"."""
    return {name.removeprefix(PREFIX): float(value) for name, value in outputs.items()}
