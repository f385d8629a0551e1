"""Lightning callbacks: what happens beside the optimiser steps.

Both read what `training_step` returns, a mapping from "train/<name>" to a number. What `log_dict` logs would not
do: Lightning repeats a metric's last value in every later step that does not have it (the reward of a class that a step
has no example of), and rounds to float32.
"""

import csv
import io
from collections.abc import Mapping, Sequence
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

    Lightning's CSVLogger would not do: it deletes the file of a run that is resumed. Here a checkpoint holds the rows
    up to its step. A resumed run writes the file anew from these and never reads it, so it ends with the file of an
    undisturbed run whatever has happened to the one in its folder.
    """

    def __init__(self, folder: Path) -> None:
        """Write into this run folder."""
        self.path = folder / METRICS
        self.columns = ["step"]
        self.rows: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: the columns, and the lines of the rows."""
        return {"columns": self.columns, "rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint holds."""
        self.columns, self.rows = list(state_dict["columns"]), list(state_dict["rows"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows up to the restored step; a new run starts with an empty file."""
        if trainer.is_global_zero:
            self._rewrite()

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
            self.rows = [row + "," * len(new) for row in self.rows]
            self._rewrite()
        values = {"step": step, **metrics}
        self.rows.append(_line([values.get(name, "") for name in self.columns]))
        self._append(self.rows[-1])
        for logger in trainer.loggers:
            logger.log_metrics({PREFIX + name: value for name, value in metrics.items()}, step=step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows where no step was left to be made: `on_train_start` is not called then."""
        if trainer.is_global_zero:
            self._rewrite()

    def _rewrite(self) -> None:
        write_text(self.path, "".join(f"{line}\n" for line in (_line(self.columns), *self.rows)))

    def _append(self, row: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{row}\n")
        except OSError as error:
            raise LabError(
                f"Could not write {self.path}: {error.strerror or error}. Free some space and run again to resume."
            ) from error


def _line(values: Sequence[Any]) -> str:
    """A line of CSV, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
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
