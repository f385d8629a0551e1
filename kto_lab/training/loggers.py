"""Where metrics go beside `metrics.csv`, which every run writes: the options of `conf/logger`."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from kto_lab.errors import LabError

# W&B takes no longer tag.
LONGEST_TAG = 64
PROJECT = "kto-lab"


@dataclass(frozen=True)
class MetricsFileOnly:
    """No logger beside the metrics file."""

    def check(self) -> None:
        """Nothing can be wrong with it."""

    def make(self, *, folder: Path, run_id: str, config: Mapping[str, Any]) -> list[Logger]:
        """No logger at all."""
        return []


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases.

    What is None here is left to W&B's own variables, and then to a default.

    Attributes:
        project: W&B project; None for WANDB_PROJECT, else "kto-lab".
        entity: team or user; None for WANDB_ENTITY, else the account's own.
        group: runs shown together, such as the cells of a study; None for WANDB_RUN_GROUP, else none.
        tags: any words, of up to 64 characters; None for WANDB_TAGS, else none.
        name: shown for the run; None for WANDB_NAME, else the run folder's name.
        job_type: tells runs of a group apart; None for WANDB_JOB_TYPE, else "train".
        artifacts: what W&B keeps of a finished run: "none", the trained "policy", a "report" (a run's
            record, a study's page), or "all" of these.
        offline: write to the disk only (`wandb sync` uploads it later); None for WANDB_MODE, else true.
    """

    project: str | None
    entity: str | None
    group: str | None
    tags: list[str] | None
    name: str | None
    job_type: str | None
    artifacts: Literal["none", "policy", "report", "all"]
    offline: bool | None

    def __post_init__(self) -> None:
        """Refuse a tag that W&B would refuse, before anything is loaded."""
        for tag in self.tags or ():
            if not 1 <= len(str(tag)) <= LONGEST_TAG:
                raise LabError(f"logger.tags has {tag!r}; W&B takes tags of 1 to {LONGEST_TAG} characters. Shorten it.")

    @rank_zero_only
    def check(self) -> None:
        """See that W&B can keep its files, which it would otherwise find out after the training.

        Raises:
            LabError: it cannot.
        """
        from wandb import env

        folders = {"WANDB_DATA_DIR": Path(env.get_data_dir())}
        if own := os.environ.get("WANDB_DIR"):
            folders["WANDB_DIR"] = Path(own)
        for variable, folder in folders.items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise LabError(
                    f"Weights & Biases cannot write into {folder}: {error.strerror or error}. Set {variable} to a "
                    "folder that can be written, or leave out logger=wandb."
                ) from error

    def kept(self, *, policy: Path | None, report: Path) -> list[Path]:
        """What becomes an artifact of a finished run, or of a study, which has no policy."""
        found = {"policy": policy, "report": report}
        return [path for name, path in found.items() if path and self.artifacts in (name, "all")]

    def make(self, *, folder: Path, run_id: str, config: Mapping[str, Any]) -> list[Logger]:
        """Start the W&B run, or go on with it: the same `run_id` is the same W&B run.

        Offline, each start has a folder of its own; `wandb sync` appends them to one run. Steps that are repeated after
        the last checkpoint are there twice.

        Args:
            folder: the run folder; W&B's files go into its `wandb/`, or into that of WANDB_DIR where it is set.
            run_id: the run's identity.
            config: the resolved configuration, nested; W&B shows it, and filters by it, under dotted keys.

        Raises:
            LabError: W&B refuses (no key or no network, when it is not offline).
        """
        run = _start(
            project=self.project or _unless("WANDB_PROJECT", PROJECT),
            entity=self.entity,
            name=self.name or _unless("WANDB_NAME", folder.name),
            group=self.group,
            tags=None if self.tags is None else list(self.tags),
            job_type=self.job_type or _unless("WANDB_JOB_TYPE", "train"),
            id=run_id,
            resume="allow",
            dir=_unless("WANDB_DIR", str(folder)),
            config=dict(config),
            mode=_unless("WANDB_MODE", "offline") if self.offline is None else "offline" if self.offline else "online",
        )
        return [WandbLogger(experiment=run, project=self.project or PROJECT, id=run_id, save_dir=folder)]


def _unless(variable: str, default: str) -> str | None:
    """A default, or None where W&B reads one of its variables instead."""
    return None if os.environ.get(variable) else default


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
    # A value of one of its variables that W&B does not know is a ValueError.
    except (wandb.errors.Error, ValueError) as error:
        raise LabError(
            f"Weights & Biases does not start: {error}. Log in with `wandb login`, or set logger.offline=true."
        ) from error
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run
