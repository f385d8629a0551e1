"""Checkpoints to resume from: whole files of whole steps, or none.

One holds what is trained, with the optimiser's state and all else that a step changes. Frozen weights, such as the base
under an adapter, come from the model that a resumed run loads; a claimed folder says which (`runs/claim.py`).
"""

import errno
import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch.optim import Optimizer

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.files import atomic_path
from kto_lab.sealed import DamagedError, set_aside
from kto_lab.training.module import NotFiniteError


class AtomicFiles(TorchCheckpointIO):
    """Checkpoint files written whole or not at all, and without a second copy of them in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            LabError: the disk refuses.
        """
        with atomic_path(Path(path)) as partial, partial.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch wraps what the disk says.
                raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint; the end of training is one, so that a failing evaluation costs no training."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last step, unless it is saved already."""
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class StoppedCheckpoint(OnExceptionCheckpoint):
    """Saves where training stopped, if it stopped between two steps: half a step cannot be resumed.

    Lightning removes the file when a resumed run has come to its end.
    """

    def __init__(self, dirpath: Path, filename: str) -> None:
        """Save to `dirpath`/`filename`.ckpt."""
        super().__init__(dirpath, filename)
        self.whole = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Everything is restored, and no step is begun."""
        self.whole = True

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """From here on the weights are neither the old nor the new ones."""
        self.whole = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Weights, schedule and the row of metrics are those of a finished step."""
        self.whole = True

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save, if it can be done."""
        # Before the first step there is nothing to keep. All processes of a run save together, and only a loss that is
        # not finite stops all of them at one place.
        together = trainer.world_size == 1 or isinstance(exception, NotFiniteError)
        if not (self.whole and together and trainer.global_step):
            return
        try:
            super().on_exception(trainer, pl_module, exception)
        except LabError as error:
            narration.say(f"    {error}")


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps in a folder; None where there is none. A damaged one is set aside.

    Raises:
        LabError: one cannot be read, by no fault of its content.
    """
    found: list[tuple[int, Path]] = []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            found.append((_steps_of(path), path))
        except FileNotFoundError:
            continue  # another process of this run has set it aside
        except OSError as error:
            raise LabError(f"{path} cannot be read: {error.strerror}. Mend that, and run again to resume.") from error
        except DamagedError as error:
            set_aside(path, error, "training goes on without it")
    if not found:
        return None
    step, path = max(found)
    narration.say(f"    going on from step {step} ({path.name})")
    return path


def _steps_of(path: Path) -> int:
    """The steps that a checkpoint is of, after verifying all of it: torch's archive has a checksum for each tensor.

    Raises:
        DamagedError: it is not as it was written.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged} is not that of its content")
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:  # whatever damaged bytes lead zipfile and torch to
        # To seek to where damaged bytes point is an invalid argument.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        why = str(error).partition("\n")[0] or type(error).__name__
        raise DamagedError(path, why, "Remove it, and run again.") from error
