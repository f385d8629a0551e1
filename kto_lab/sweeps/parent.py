"""A process that a launcher has started ends with its sweep, however that ended.

joblib's workers do not notice that their parent was killed: each would finish its cell, and stay, with a model in its
memory, for nobody.
"""

import os
import signal
import threading
from dataclasses import dataclass, field

from hydra.types import TaskFunction
from omegaconf import DictConfig

from kto_lab.stopping import stoppable

LOOK_SECONDS = 1.0
# Between being asked to stop, which waits for the end of a step, and being made to.
GRACE_SECONDS = 120.0


@dataclass(frozen=True)
class EndsWithSweep:
    """A task that, in a process of the sweep's own, is stopped when the sweep's process is no more.

    It is stopped as by SIGTERM: a step that is being trained is finished and saved, so that the cell goes on from there
    when the sweep is run again. Then the process ends, whatever else it was to do.

    Attributes:
        task: runs a composed cell.
        sweep: number of the process that sweeps, the parent of the others.
    """

    task: TaskFunction
    sweep: int = field(default_factory=os.getpid)

    def __call__(self, config: DictConfig) -> object:
        """Run a cell."""
        if os.getpid() == self.sweep:
            return self.task(config)
        over = threading.Event()
        threading.Thread(target=_stop_without, args=(self.sweep, over), daemon=True).start()
        try:
            with stoppable():
                return self.task(config)
        finally:
            over.set()
            if _is_gone(self.sweep):
                # Raised, it would only end the cell: joblib's worker would take the next.
                os._exit(128 + signal.SIGTERM)


def _stop_without(parent: int, over: threading.Event) -> None:
    while not _is_gone(parent):
        if over.wait(LOOK_SECONDS):
            return
    os.kill(os.getpid(), signal.SIGTERM)
    if not over.wait(GRACE_SECONDS):
        os._exit(128 + signal.SIGTERM)


def _is_gone(parent: int) -> bool:
    """Whether the parent has ended; its orphans are then another process's children."""
    return os.getppid() != parent
