"""Where metrics go beside `metrics.csv`, which every run writes: the options of `conf/logger`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from kto_lab.errors import LabError

# W&B takes no longer tag.
LONGEST_TAG = 64


@dataclass(frozen=True)
class MetricsFileOnly:
    """No logger beside the metrics file."""

    def make(self, *, folder: Path, run_id: str, config: Mapping[str, Any]) -> list[Logger]:
        """No logger at all."""
        return []


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases.

    Attributes:
        project: W&B project.
        group: runs shown together, such as the cells of a study; None for none.
        tags: any words, of up to 64 characters.
        name: shown for the run; None for the run folder's name.
        job_type: "train" or whatever tells runs of a group apart; None for none.
        offline: write to the run folder's `wandb/` only (`wandb sync` uploads it later).
    """

    project: str
    group: str | None
    tags: list[str]
    name: str | None
    job_type: str | None
    offline: bool

    def __post_init__(self) -> None:
        """Refuse a tag that W&B would refuse, before anything is loaded."""
        for tag in self.tags:
            if not 1 <= len(str(tag)) <= LONGEST_TAG:
                raise LabError(f"logger.tags has {tag!r}; W&B takes tags of 1 to {LONGEST_TAG} characters. Shorten it.")

    def make(self, *, folder: Path, run_id: str, config: Mapping[str, Any]) -> list[Logger]:
        """Start the W&B run, or go on with it: the same `run_id` is the same W&B run.

        Offline, each start has a folder of its own; `wandb sync` appends them to one run. Steps that are repeated after
        the last checkpoint are there twice.

        Args:
            folder: the run folder; W&B's files go into its `wandb/`.
            run_id: the run's identity.
            config: the resolved configuration, nested; W&B shows it, and filters by it, under dotted keys.

        Raises:
            LabError: W&B refuses (no key or no network, when it is not offline).
        """
        run = _start(
            project=self.project,
            name=self.name or folder.name,
            group=self.group,
            tags=list(self.tags),
            job_type=self.job_type,
            id=run_id,
            resume="allow",
            dir=folder,
            config=dict(config),
            mode="offline" if self.offline else "online",
        )
        return [WandbLogger(experiment=run, project=self.project, id=run_id, save_dir=folder)]


@rank_zero_only
def _start(**wanted: Any) -> Any:
    """Start the run on the first process; now, because an error after the training would cost more."""
    # Imported here because it takes a second, and the default logger does without.
    import wandb

    if wandb.run is not None:
        # An earlier cell of a sweep that failed in this process; W&B would go on writing to its run.
        wandb.finish(exit_code=1)
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        # W&B's own metadata is the host, the user, their folders and the command; the record holds what matters.
        x_disable_meta=True,
        host="",
        x_save_requirements=False,
    )
    try:
        run = wandb.init(settings=settings, **wanted)
    except wandb.errors.Error as error:
        raise LabError(
            f"Weights & Biases does not start: {error}. Log in with `wandb login`, or set logger.offline=true."
        ) from error
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run
