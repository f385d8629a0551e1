"""Cells as jobs on Slurm: submitted as one array, and waited for until each has ended, whatever became of it.

Hydra's plugin has the launcher, which is what a job calls, and submitit submits it. The plugin's own way to wait is not
used: it ends at the first job that failed, and where Slurm keeps no accounts (`sacct`) never notices a killed one.
"""

import getpass
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import DictConfig, OmegaConf
from submitit.core.utils import FailedJobError

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.sweeps.outcome import groups

LOOK_SECONDS = 1.0
# Between two questions to Slurm itself, which serves many.
QUEUE_SECONDS = 15.0
# submitit takes the last ten minutes before the limit for the limit.
SHORTEST_MIN = 10
# How sbatch is asked for GPUs: gpus_per_node, gpus_per_task, gpus, gres, tres_per_task.
OF_GPUS = ("gpus", "gres", "tres")
# Since Slurm 22.05, srun no longer takes the job's number of CPUs by itself.
EXPORTS = ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK", "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK"]


def run_on_slurm(launcher: SlurmLauncher, cells: Sequence[Sequence[str]], first: int) -> None:
    """Submit cells, and wait until all of their jobs have ended.

    Args:
        launcher: the plugin's, set up.
        cells: the overrides of each.
        first: number of the first one.

    Raises:
        LabError: there is no Slurm, it refuses the jobs, or a person stops waiting.
    """
    jobs = submit(launcher, cells, first)
    number = jobs[0].job_id.partition("_")[0]
    console.say(f"    Slurm job {number}: {len(jobs)} cells; logs in {jobs[0].paths.folder}")
    try:
        wait(jobs)
    except KeyboardInterrupt:
        raise LabError(
            f"No longer waiting. The jobs go on; scancel {number} ends them, and the same command comes back to them."
        ) from None
    for problem, count, job in groups((problem, job) for job in jobs if (problem := problem_of(job))):
        told = f"Slurm job {job.job_id}" if count == 1 else f"{count} Slurm jobs, such as {job.job_id}"
        console.say(f"    {told}: {problem}; log {job.task(0).paths.stdout}")


def tell_of_gpus(config: DictConfig) -> None:
    """Say that jobs ask for no GPU, where their trainer would take one: a node has GPUs, and a job what it asked for.

    Args:
        config: of the sweep, with the trainer of these jobs.
    """
    launcher = config.hydra.launcher
    options = (launcher, launcher.additional_parameters or {})
    asks = any(asked[name] for asked in options for name in asked if str(name).startswith(OF_GPUS))
    if config.trainer.accelerator == "auto" and not asks:
        console.say(
            "    These jobs ask for no GPU, and train on CPUs: trainer.accelerator is auto. trainer=gpu, or "
            "trainer.accelerator=gpu, asks for one GPU per process."
        )


def submit(launcher: SlurmLauncher, cells: Sequence[Sequence[str]], first: int) -> list[submitit.Job[Any]]:
    """Hand cells to Slurm, as one array where there are several.

    Raises:
        LabError: there is no Slurm, or it refuses.
    """
    asked = {name: value for name, value in launcher.params.items() if value is not None}
    folder, timeouts = asked.pop("submitit_folder"), asked.pop("max_num_timeout")
    if asked["timeout_min"] <= SHORTEST_MIN:
        raise LabError(
            f"hydra.launcher.timeout_min is {asked['timeout_min']}; it must be more than {SHORTEST_MIN}: with less, "
            "every preemption looks like the time limit."
        )
    asked["setup"] = [*EXPORTS, *asked["setup"]]
    shared = set(OmegaConf.structured(BaseQueueConf))
    try:
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=timeouts)
        executor.update_parameters(**{name if name in shared else f"slurm_{name}": asked[name] for name in asked})
        numbers = range(first, first + len(cells))
        state = Singleton.get_state()
        columns = [
            (list(cell), "hydra.sweep.dir", number, "", state) for cell, number in zip(cells, numbers, strict=True)
        ]
        return executor.map_array(launcher, *zip(*columns, strict=True))
    except (FailedJobError, subprocess.CalledProcessError) as error:
        raise LabError(
            f"Slurm refuses the jobs: {str(error).strip()}\nMend hydra.launcher.*, or what it says."
        ) from error
    except RuntimeError as error:  # which the first of those is, too
        raise LabError(f"There is no Slurm here: {error} Run the sweep where sbatch and srun are.") from error


def wait(jobs: Sequence[submitit.Job[Any]]) -> None:
    """Wait until every job has left its result, or is none that Slurm still knows to be under way."""
    left, looked = list(jobs), time.monotonic()
    missed: set[str] = set()
    while left := [job for job in left if not has_result(job)]:
        time.sleep(LOOK_SECONDS)
        if time.monotonic() - looked < QUEUE_SECONDS:
            continue
        looked, queued = time.monotonic(), in_queue()
        if queued is None:
            continue
        gone = {job.job_id for job in left} - queued
        # Missed twice: a result takes its time to be seen from here.
        left = [job for job in left if job.job_id not in gone & missed]
        missed = gone


def in_queue() -> set[str] | None:
    """The jobs of this user that wait, run, or are about to start again, such as "12" and "13_0"; None: no answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return set(done.stdout.split()) if done.returncode == 0 else None


def has_result(job: submitit.Job[Any]) -> bool:
    """Whether the first process of a job has left its result; the others have none of their own."""
    return bool(job.task(0).paths.result_pickle.exists())


def problem_of(job: submitit.Job[Any]) -> str | None:
    """What a person should know of how a job ended; None where the cell itself knows the rest."""
    if not has_result(job):
        return "ended without a word; Slurm or the system has killed it"
    try:
        result = job.task(0).result()
    except Exception as error:
        return str(error).strip().splitlines()[-1]
    return None if result.status is JobStatus.COMPLETED else str(result._return_value)
