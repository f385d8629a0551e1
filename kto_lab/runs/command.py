"""The command `kto-lab train`: a run, with all that is logged, drawn and shown of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from kto_lab import console, narration
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import refuse_taken_names
from kto_lab.files import remove_abandoned
from kto_lab.keys import TRAIN
from kto_lab.memory import forget_peak_of_devices
from kto_lab.processes import is_first
from kto_lab.runs import train as run
from kto_lab.runs import wandb_log
from kto_lab.runs.claim import CONFIG, is_finished, run_folder
from kto_lab.runs.components import Components, assemble
from kto_lab.runs.curves import CURVES, plot_curves
from kto_lab.runs.environment import environment, peak_memory
from kto_lab.runs.job import logs
from kto_lab.runs.launch import is_launched, launch
from kto_lab.runs.lease import LEASE, held, read_owner
from kto_lab.runs.memory_check import check_memory
from kto_lab.runs.process_cache import NO_CACHE, ProcessCache
from kto_lab.runs.record import RECORD, Record, read_record
from kto_lab.runs.saving import POLICY
from kto_lab.runs.summary import show_examples, show_metrics
from kto_lab.training.callbacks import METRICS
from kto_lab.training.local_loggers import TensorBoard, Trackio
from kto_lab.training.loggers import MetricsFileOnly, Wandb


def train(cfg: DictConfig, cache: ProcessCache = NO_CACHE) -> Path:
    """Run the whole of `kto-lab train`, or what is left of it, and return the run folder.

    A finished run is not run again; an unfinished one goes on from its last checkpoint. The folder is this run's alone
    for as long as it takes. A run of several processes has each in a process of its own; see `launch`.

    Args:
        cfg: the configuration `train`.
        cache: what earlier runs of this process have kept for this one.

    Raises:
        LabError: something that a person can mend; see its message.
    """
    folder = run_folder(cfg)
    check_keys(cfg, TRAIN)
    # Made here, too, so that a mistake shows before anything is started.
    if not is_launched() and (hardware := assemble(cfg).hardware).processes > 1:
        launch("kto_lab.runs.command:train", cfg, hardware)
        return folder
    # The other processes of a run take part in what the first one holds.
    if not is_first():
        return train_in_own_folder(cfg, cache)
    with held(folder) as mine:
        if not mine:
            owner = read_owner(folder / LEASE) or "another process"
            raise LabError(
                f"{folder} is in use: {owner} is running there. Wait for its end, or choose another run_dir."
            )
        return train_in_own_folder(cfg, cache)


def train_in_own_folder(cfg: DictConfig, cache: ProcessCache = NO_CACHE) -> Path:
    """As `train`, where this process, or the first one of the run, holds the lease of the run folder."""
    check_keys(cfg, TRAIN)
    refuse_taken_names(cfg.evaluation.metrics)
    folder = run_folder(cfg)
    if is_first():
        remove_abandoned(folder, alone=True)
    if is_finished(folder, cfg):
        # As killed between its record and its end.
        run.clear(folder)
        narration.say(f"{folder} holds this run, finished; nothing to do. Choose another run_dir to run again.")
        return folder
    logger = instantiate(cfg.logger)
    logger.check()
    forget_peak_of_devices()
    return run.train(cfg, Display(logger), cache)


@dataclass
class Display:
    """The observer of the command: metrics to loggers, curves as a picture, the results on the console.

    Attributes:
        logger: the configuration's node `logger`, made.
        made: the loggers of this run.
    """

    logger: MetricsFileOnly | Wandb | TensorBoard | Trackio
    made: list[Logger] = field(default_factory=list)

    def environment(self) -> dict[str, Any]:
        """Versions, commit and hardware."""
        return environment()

    def plan_memory(self, cfg: DictConfig, made: Components, cache: ProcessCache) -> dict[str, Any]:
        """Said, and held against the memory of the device."""
        return check_memory(cfg, made, cache)

    def loggers(self, record: Record) -> list[Logger]:
        """Those of the configuration. They get it as a record has it: without local paths."""
        config = record.as_dict()["config"]
        self.made = self.logger.make(folder=record.folder, run_id=record.run_id, config=config)
        return self.made

    def conclude(self, record: Record) -> None:
        """Draw the curves, and say what each file of the run folder is."""
        folder = record.folder
        plot_curves(folder / METRICS, folder / CURVES)
        record.files = {
            "record": folder / RECORD,
            "policy": folder / POLICY,
            "curves": folder / CURVES,
            "metrics of each step": folder / METRICS,
            # Missing where nothing was measured.
            **({"answers and scores": answers} if (answers := folder / "evaluation").exists() else {}),
            "configuration": folder / CONFIG,
            **logs(folder),
        }
        record.peak_memory = peak_memory()

    def show(self, record: Record, answers: Sequence[dict[str, Any]]) -> None:
        """Hand the results to the loggers, and show what was found."""
        finished = read_record(record.folder)
        folder = record.folder
        wandb_log.finish(
            self.made,
            finished,
            tables={"sample answers": answers},
            curves=folder / CURVES,
            artifacts=self.logger.kept(policy=folder / POLICY, report=folder / RECORD)
            if isinstance(self.logger, Wandb)
            else [],
        )
        show_metrics(finished["metrics"], finished["declared"])
        show_examples(answers)
        console.stage("Files", "The record is written last: where it is, the run has finished.")
        console.show_files(record.files)
