"""Loggers that keep a run's metrics on this machine, beside `metrics.csv`: TensorBoard and Trackio."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from kto_lab.errors import LabError


@dataclass(frozen=True)
class TensorBoard:
    """TensorBoard's event files, by Lightning's logger.

    Attributes:
        folder: where they go; None for `tensorboard/` in the run folder.
    """

    folder: str | None

    def check(self) -> None:
        """Nothing can be wrong with it that the run folder would not show."""

    def make(self, *, folder: Path, run_id: str, config: Mapping[str, Any]) -> list[Logger]:
        """The logger of a run; what a resumed run logs is appended.

        Args:
            folder: the run folder.
            run_id: the run's identity, which names its curves where several runs share a folder.
            config: the resolved configuration, nested.
        """
        where = Path(self.folder) / f"{folder.name}_{run_id}" if self.folder else folder / "tensorboard"
        logger = TensorBoardLogger(where, name="", version="", default_hp_metric=False)
        logger.log_hyperparams(dict(config))
        return [logger]


@dataclass(frozen=True)
class Trackio:
    """Trackio, through its own library.

    Attributes:
        project: Trackio's project.
        group: runs shown together; None for none.
        name: shown for the run; None for the run folder's name.
    """

    project: str
    group: str | None
    name: str | None

    def check(self) -> None:
        """See that it is installed.

        Raises:
            LabError: it is not.
        """
        if find_spec("trackio") is None:
            raise LabError("logger=trackio needs Trackio, which is not installed: pip install 'kto-lab[trackio]'.")

    def make(self, *, folder: Path, run_id: str, config: Mapping[str, Any]) -> list[Logger]:
        """Start Trackio's run, or go on with the one of that name.

        Args:
            folder: the run folder.
            run_id: the run's identity, which is in Trackio's configuration of the run.
            config: the resolved configuration, nested.
        """
        self.check()
        logger = TrackioLogger(self.name or folder.name, run_id)
        logger.start(project=self.project, group=self.group, config={**config, "run_id": run_id})
        return [logger]


class TrackioLogger(Logger):
    """Lightning's side of a Trackio run."""

    def __init__(self, name: str, version: str) -> None:
        """Keep what Lightning asks for."""
        super().__init__()
        self._name, self._version = name, version

    @property
    def name(self) -> str:
        """Of the run."""
        return self._name

    @property
    def version(self) -> str:
        """The run's identity."""
        return self._version

    @rank_zero_only
    def start(self, **wanted: Any) -> None:
        """Start the run on the first process."""
        import trackio

        trackio.init(name=self._name, resume="allow", embed=False, **wanted)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers of a step."""
        import trackio

        trackio.log(metrics, step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration was given at the start."""

    @rank_zero_only
    def close(self) -> None:
        """End the run; not in `finalize`, which Lightning calls before the final metrics are known."""
        import trackio

        trackio.finish()
