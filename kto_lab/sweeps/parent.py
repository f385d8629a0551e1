"""A process that a launcher has started ends with its sweep, however that ended.

joblib's workers do not notice that their parent was killed: each would finish its cell, and stay, with a model in its
memory, for nobody.
"""

import os
from dataclasses import dataclass, field

from hydra.types import TaskFunction
from omegaconf import DictConfig

from kto_lab.stopping import ending_with


@dataclass(frozen=True)
class EndsWithSweep:
    """A task that, in a process of the sweep's own, is stopped when the sweep's process is no more.

    It goes on from there when the sweep is run again; see `ending_with`.

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
        with ending_with(self.sweep):
            return self.task(config)
