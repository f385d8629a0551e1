"""Being asked to stop, in a job of a cluster: the step is finished and saved, and only then does the job end.

submitit, which runs the cells of a sweep on Slurm, takes USR2 (a preemption, or the time limit near) for the word to
requeue the job and to exit at once. Once it is requeued Slurm kills it soon, and a step that is half done cannot be
resumed; so during training the signal waits for the end of the step.
"""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.environments import SLURMEnvironment

from kto_lab import narration


class StopWhenAsked(pl.Callback):
    """Keeps USR2 until a step is whole, saves, and hands the signal to the handler that was there before.

    Where no handler is, nobody will ask. All processes of a run stop after the same step, whichever was asked.
    """

    def __init__(self, checkpoint: Path) -> None:
        """Save to this file."""
        self.checkpoint = checkpoint
        self.asked = False
        self.handler: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From now on there are steps."""
        handler = signal.getsignal(signal.SIGUSR2)
        if callable(handler):
            self.handler = handler
            signal.signal(signal.SIGUSR2, self._note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, if any process was asked to.

        Raises:
            SystemExit: in all processes, if the handler requeues.
        """
        if self.handler is None or not trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            return
        trainer.save_checkpoint(self.checkpoint)
        narration.say(f"    asked to stop: step {trainer.global_step} is saved")
        # To requeue a job is to have it killed. Lightning would answer with a broadcast, for which nobody waits.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.handler(signal.SIGUSR2, None)
        # The handler lets all processes but the first go on. An error status could take the first with it.
        raise SystemExit(0)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Training is over and saved: whoever asks now, or has asked since the last step, need not wait."""
        if self.handler is not None:
            signal.signal(signal.SIGUSR2, self.handler)
            if self.asked:
                self.handler(signal.SIGUSR2, None)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True


def slurm() -> list[SLURMEnvironment]:
    """Slurm as Lightning knows it, for a run that is a job there; without Lightning's own requeue on USR1.

    That would save in the middle of a step, to a file that is preferred to all others ever after.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
