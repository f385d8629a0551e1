"""What watches a run: `train` computes, and hands what it found to an observer, which logs, draws and shows it.

Nothing that an observer does can change a result, though it can refuse to have one. Therefore `train` knows this
interface alone; the observer of `kto-lab train` is made in `runs/command.py`, which the modules that compute do not
import.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from kto_lab.runs.components import Components
from kto_lab.runs.process_cache import ProcessCache
from kto_lab.runs.record import Record


class Observer(Protocol):
    """Watches one run. Its methods are called in this order; the last two on the first process alone."""

    def environment(self) -> dict[str, Any]:
        """What the run stands on, for its record; read when the run starts."""

    def plan_memory(self, cfg: DictConfig, made: Components, cache: ProcessCache) -> dict[str, Any]:
        """What the run will need in memory, for its record, before a model is loaded.

        Args:
            cfg: the configuration of the run.
            made: what it names.
            cache: of this process.

        Raises:
            LabError: the run cannot fit.
        """

    def loggers(self, record: Record) -> list[Logger]:
        """What gets every step's metrics, beside the metrics file.

        Args:
            record: the run's so far, with its identity and its configuration.
        """

    def conclude(self, record: Record) -> None:
        """Complete the record of a run that has been saved: its files, of which some are drawn now, and its memory."""

    def show(self, record: Record, answers: Sequence[dict[str, Any]]) -> None:
        """Show a finished run.

        Args:
            record: the run's, which has been written.
            answers: of both policies, from `answers.side_by_side`.
        """
