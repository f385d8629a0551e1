"""Hydra's launchers, as a sweep needs them: jobs that ask for the hardware of their cells, and an end that is told."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.gpus import gpu_places, visible
from kto_lab.messages import explain
from kto_lab.sweeps.claims import end_idle_processes, starts_processes
from kto_lab.sweeps.parent import EndsWithSweep

SLURM = "SlurmLauncher"
FOLLOWS = "${trainer."


class Launcher:
    """Runs jobs with the launcher that the configuration names (`hydra/launcher=`), and returns when all have ended.

    What a job asks the launcher for may follow its cell: `${trainer.devices}` in `hydra.launcher` is the cell's. Cells
    that ask for different things are launched one kind after another.
    """

    def __init__(self, context: HydraContext, task: TaskFunction, config: DictConfig) -> None:
        """Take Hydra's context, what runs a composed cell, and the configuration of the sweep."""
        self.context, self.task, self.config = context, task, config
        # Once for all: a folder may be named by the time.
        OmegaConf.to_container(config.hydra.launcher, resolve=True)

    def launch(self, jobs: Sequence[Sequence[str]], first: int = 0) -> dict[Path, str]:
        """Run jobs to their ends, good or bad.

        Args:
            jobs: the overrides of each.
            first: number of the first one.

        Returns:
            What ended the cells that could not write it into their folder themselves, by that folder.

        Raises:
            LabError: the launcher is not installed, or refuses.
        """
        problems: dict[Path, str] = {}
        kinds = self._kinds(jobs)
        if in_processes := starts_processes(self.config.hydra.launcher):
            for config, _ in kinds:
                _refuse_too_many(config)
        for config, alike in kinds:
            launcher = self._instantiate(config)
            if type(launcher).__name__ == SLURM:
                from kto_lab.sweeps.slurm import run_on_slurm, tell_of_gpus

                tell_of_gpus(config)
                run_on_slurm(launcher, alike, first)
            else:
                problems |= _run_here(launcher, alike, first)
            if in_processes:
                # Cells of another kind may need another number of GPUs, and CUDA knows a process's GPUs for good.
                end_idle_processes()
            first += len(alike)
        return problems

    def _kinds(self, jobs: Sequence[Sequence[str]]) -> list[tuple[DictConfig, list[Sequence[str]]]]:
        """Jobs that ask the launcher for the same, with the configuration that says so."""
        in_processes = starts_processes(self.config.hydra.launcher)
        follows = visible() if in_processes else FOLLOWS in OmegaConf.to_yaml(self.config.hydra.launcher)
        if not follows:
            return [(self.config, list(jobs))]
        kinds: dict[str, tuple[DictConfig, list[Sequence[str]]]] = {}
        for job in jobs:
            composed = self.context.config_loader.load_sweep_config(self.config, list(job))
            config = copy.deepcopy(self.config)
            with read_write(config):
                config.trainer = composed.trainer
            asked = repr(OmegaConf.to_container(config.hydra.launcher, resolve=True))
            if in_processes:
                # Of which a process has as many as its first cell needs, whatever n_jobs says.
                asked += f" {config.trainer.accelerator} {config.trainer.devices}"
            kinds.setdefault(asked, (config, []))[1].append(job)
        return list(kinds.values())

    def _instantiate(self, config: DictConfig) -> Any:
        # Jobs on Slurm go on without the sweep, which comes back to them.
        on_slurm = str(config.hydra.launcher._target_).endswith(f".{SLURM}")
        task = self.task if on_slurm else EndsWithSweep(self.task)
        try:
            return Plugins.instance().instantiate_launcher(
                hydra_context=self.context, task_function=task, config=config
            )
        except ImportError as error:
            raise LabError(
                "The launcher needs an extra that is not installed: pip install 'kto-lab[slurm]' or 'kto-lab[joblib]'."
            ) from error


def _refuse_too_many(config: DictConfig) -> None:
    """LabError where there are more processes than GPUs for them: they would take turns, models in their memory."""
    asked, places = config.hydra.launcher.n_jobs, gpu_places(config.trainer.accelerator, config.trainer.devices)
    if places is not None and not 0 < asked <= places:
        raise LabError(
            f"hydra.launcher.n_jobs is {asked}, but this machine has GPUs for {places} cells at a time, with "
            f"trainer.devices={config.trainer.devices}. Leave n_jobs out, or use trainer=cpu."
        )


def _run_here(launcher: Any, jobs: Sequence[Sequence[str]], first: int) -> Mapping[Path, str]:
    try:
        ended: Sequence[JobReturn] = launcher.launch(jobs, initial_job_idx=first)
    except Exception as error:
        # joblib's word for a process that the system has killed, for want of memory as a rule: it then ends the others.
        if type(error).__name__ != "TerminatedWorkerError":
            raise
        console.say(f"    A process was killed, and with it the others: {error}")
        return {}
    failed = [(job.cfg, job) for job in ended if job.status is JobStatus.FAILED]
    return {Path(cfg.run_dir): _told(job._return_value) for cfg, job in failed if cfg is not None}


def _told(error: BaseException) -> str:
    return explain(error) or f"{type(error).__name__}: {error}"
