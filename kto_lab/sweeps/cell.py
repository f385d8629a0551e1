"""One cell of a sweep: a run that is made once, whoever else sweeps, and whose failure stays its own."""

import gc
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.files import remove_abandoned
from kto_lab.log_file import into
from kto_lab.messages import explain
from kto_lab.processes import is_first
from kto_lab.runs.identity import identify
from kto_lab.runs.job import LOG, Job
from kto_lab.runs.launch import KilledError, is_launched, launch
from kto_lab.runs.lease import LEASE, held
from kto_lab.runs.process_cache import ProcessCache
from kto_lab.runs.status import FAILURE, status
from kto_lab.sealed import read_json, write_json
from kto_lab.stopping import Stopped
from kto_lab.sweeps.finished import CELLS
from kto_lab.training.hardware import Hardware

LOOK_SECONDS = 5.0
# Of this process, which may run one cell after another.
CACHE = ProcessCache(keeps=True)


class CellError(Exception):
    """Why a cell ended, where its folder could not be told: for the launcher to hand to the sweep."""


def run_cell(cfg: DictConfig) -> str:
    """Run a cell to its end, or what is left of it, and return its status. Hydra calls this for each job.

    What the run says goes to `log.txt` in its folder. A failure is recorded with its traceback in `failure.json`, and
    does not reach the other cells; being asked to stop does. A cell of several processes has each in a process of its
    own, which Slurm starts, or `launch`: the first does all of that, and the others take part if it does.

    Raises:
        CellError: the cell failed, and its folder refuses to be told; or one of its processes was killed.
    """
    _set_apart_what_is_imported()
    folder = Path(cfg.run_dir)
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "study"])
    assert isinstance(own, DictConfig)
    job = Job.current()
    if job and not job.leads:
        if job.is_told_to_run():
            _take_part(own, folder)
        return status(folder)
    if not job and not is_first():
        from kto_lab.runs.command import train_in_own_folder

        # `launch` ends it where the first fails.
        train_in_own_folder(own, CACHE)
        return status(folder)
    with _recorded(folder, job):
        if not is_launched() and (hardware := instantiate(own.trainer)).processes > 1:
            _launch(own, folder, hardware)
        else:
            _lead(own, folder, job)
    # Trainer, policy and optimiser hold one another: their memory is wanted by the next cell.
    gc.collect()
    return status(folder)


def _launch(own: DictConfig, folder: Path, hardware: Hardware) -> None:
    """Run a cell in processes of its own, and add to its failure what only another than the first knew.

    Raises:
        CellError: one was killed.
    """
    try:
        others = launch("kto_lab.sweeps.cell:run_cell", own, hardware)
    except Stopped:
        # As its processes end one after another, the first may have met the end of another: no failure of the cell.
        (folder / FAILURE).unlink(missing_ok=True)
        raise
    except KilledError as killed:
        raise CellError(str(killed)) from None
    except Exception:
        # Its processes are no more, and nobody else has the cell: what they held is free.
        with held(folder) as mine:
            if mine:
                raise
        return
    failure = folder / FAILURE
    if others and status(folder) == "failed" and failure.exists():
        told = read_json(failure, "--retry-failed runs the cell again.")
        if others not in told["error"]:
            write_json(failure, told | {"error": f"{told['error']}\n{others}"})


def _lead(own: DictConfig, folder: Path, job: Job | None) -> None:
    """Run a cell, unless it is another's or done."""
    from kto_lab.runs.command import train_in_own_folder

    with held(folder) as mine:
        runs = mine and status(folder) != "done" and _is_still(own, folder)
        if runs:
            (folder / FAILURE).unlink(missing_ok=True)
        if job:
            job.tell(runs)
        if not runs:
            return
        with into(folder / LOG), _recorded(folder, job):
            try:
                train_in_own_folder(own, CACHE)
            except Exception as error:
                if not _asks_to_stop(error):
                    console.say(traceback.format_exc())
                raise


def clear_after_kill(folder: Path) -> None:
    """Remove what is left in the folder of a done cell that was killed just after it had written its record."""
    if not (folder / LEASE).exists():
        return
    from kto_lab.runs.train import clear

    with held(folder) as mine:
        if mine:
            clear(folder)
            remove_abandoned(folder, alone=True)


@contextmanager
def _recorded(folder: Path, job: Job | None) -> Iterator[None]:
    """Have a failure of the block recorded in the cell's folder, and stay there."""
    try:
        yield
    except Exception as error:
        if _asks_to_stop(error) or isinstance(error, CellError):
            raise
        _record(error, folder, job)


def _record(error: Exception, folder: Path, job: Job | None) -> None:
    message = explain(error) or f"{type(error).__name__}: {error}"
    if job and job.processes > 1:
        message += f"\nWhat the other processes said is in {job.log.parent}."
        with suppress(LabError):
            # They wait to be told, where it failed before.
            job.tell(False)
    try:
        write_json(folder / FAILURE, {"error": message, "traceback": traceback.format_exc()})
    except LabError as refused:
        raise CellError(f"{message}\n{refused}") from None


def _is_still(own: DictConfig, folder: Path) -> bool:
    """Whether a cell is what its folder was named for when the sweep was planned; where it is not, that is said."""
    if folder.parent.name != CELLS or (found := identify(own).run_id) == folder.name:
        return True
    console.say(
        f"    {folder} is not run: here its identity is {found}. The code or a file that it reads has changed since "
        "the sweep was planned, or Python finds other modules here than there (PYTHONPATH). Sweep again."
    )
    return False


@lru_cache(maxsize=1)
def _set_apart_what_is_imported() -> None:
    """Spare the collector the hundreds of thousands of objects that stay as long as the process."""
    gc.freeze()


def _take_part(own: DictConfig, folder: Path) -> None:
    """Run a cell as one of its processes that have no say; what it meets is in its own log of the Slurm job."""
    from kto_lab.runs.command import train_in_own_folder

    over = threading.Event()
    threading.Thread(target=_follow, args=(folder / FAILURE, over), daemon=True).start()
    try:
        train_in_own_folder(own, CACHE)
    except Exception:
        # Hydra keeps an exception of a job to itself.
        traceback.print_exc(file=sys.stderr)
        raise
    finally:
        over.set()


def _follow(failure: Path, over: threading.Event) -> None:
    """End this process where the first has failed: it would wait for that one, in a collective, for half an hour."""
    while not over.wait(LOOK_SECONDS):
        if failure.exists():
            print(f"The first process has failed: {failure}", file=sys.stderr)
            os._exit(1)


def _asks_to_stop(error: Exception) -> bool:
    """Whether this is submitit's word for a job that ran out of time too often: not the cell's failure."""
    return type(error).__name__ == "UncompletedJobError"
