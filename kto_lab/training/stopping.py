"""Being asked to stop while training: the step is finished and saved, and only then does the process end.

submitit, which runs the cells of a sweep on Slurm, takes USR2 (a preemption, or the time limit near) for the word to
requeue the job and to exit at once. Once it is requeued Slurm kills it soon, and a step that is half done cannot be
resumed; so during training the signal waits for the end of the step. SIGTERM (`kill`, Kubernetes) and Ctrl-C wait, too.
"""

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.environments import SLURMEnvironment

from kto_lab import narration
from kto_lab.stopping import SIGNALS, Stopped, stop


class StopWhenAsked(pl.Callback):
    """Keeps a signal until a step is whole, saves, and then ends: by the launcher's handler, or with `Stopped`.

    USR2 goes to the handler that was there before; where none is, nobody will ask. SIGTERM and Ctrl-C are kept where
    the command line, or nobody, would take them; a second one ends at once. All processes of a run stop after the same
    step, whichever was asked.
    """

    def __init__(self, checkpoint: Path) -> None:
        """Save to this file."""
        self.checkpoint = checkpoint
        self.asked: int | None = None
        # Read before Lightning puts its own in their place.
        self.before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGUSR2, *SIGNALS)}
        self.kept: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From now on there are steps."""
        if threading.current_thread() is not threading.main_thread():
            return
        ours = (signal.SIG_DFL, signal.default_int_handler, stop)
        for number, handler in self.before.items():
            if callable(handler) and handler not in ours if number == signal.SIGUSR2 else handler in ours:
                self.kept[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, if any process was asked to.

        Raises:
            SystemExit: in all processes, if the handler requeues or the signal was to stop.
        """
        if not self.kept or not trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False):
            return
        trainer.save_checkpoint(self.checkpoint)
        narration.say(f"    asked to stop: step {trainer.global_step} is saved")
        asked = self.asked
        self._restore()
        if signal.SIGUSR2 in self.kept and asked not in SIGNALS:
            # To requeue a job is to have it killed. Lightning would answer with a broadcast, for which nobody waits.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.kept[signal.SIGUSR2](signal.SIGUSR2, None)
        if asked in SIGNALS:
            raise Stopped(asked, f"Step {trainer.global_step} is saved.")
        # The handler lets all processes but the first go on. An error status could take the first with it.
        raise SystemExit(0)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Training is over and saved: whoever asks now, or has asked since the last step, need not wait."""
        self._restore()
        if self.asked is not None and self.asked in self.kept:
            asked, self.asked = self.asked, None
            if asked in SIGNALS:
                raise Stopped(asked, "Training is over, and its last step is saved.")
            self.kept[asked](asked, None)

    def _restore(self) -> None:
        for number, handler in self.kept.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.asked is not None and signum in SIGNALS:
            raise Stopped(signum)
        self.asked = signum
        if signum in SIGNALS:
            # Straight to the file: what buffers may be in the middle of a write. Whoever reads it may be gone.
            with suppress(OSError):
                os.write(2, b"\nstopping when this step is done and saved (once more to stop at once)\n")


def slurm() -> list[SLURMEnvironment]:
    """Slurm as Lightning knows it, for a run that is a job there; without Lightning's own requeue on USR1.

    That would save in the middle of a step, to a file that is preferred to all others ever after.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
