"""`kto-lab sweep hydra/launcher=slurm` on a real Slurm of one node: arrays, preemption, failures, kills, two tasks."""

import json
import os
import signal
from pathlib import Path

import pytest

from kto_lab.runs.job import LOG
from kto_lab.runs.lease import LEASE, read_owner
from kto_lab.runs.record import read_record
from kto_lab.runs.status import FAILURE, status
from tests.slurm.one_node import job, sbatch, slurm, wait_for_state, wait_until
from tests.slurm.slurm_sweep import SLURM, Sweep, assert_same_run, assert_saved_where_it_was_asked, ended, log_of_job

# Long enough for something to happen to it, and no checkpoint unless it is asked for.
LONG = ("optimization.max_steps=150", "optimization.checkpoint_every=1000")
TWO = ("trainer.accelerator=cpu", "trainer.precision=32-true")


def preempt() -> None:
    """Have a more urgent job take the whole node, and leave it."""
    urgent = sbatch("true", "--partition=high", "--exclusive", "--output=/dev/null")
    wait_for_state(urgent, "COMPLETED")


@pytest.mark.slow
def test_an_array_with_a_cell_that_fails_and_the_same_command_again(cluster: Path, tmp_path: Path) -> None:
    sweep = Sweep(
        tmp_path, *SLURM, "corruption.rate=0,2", "optimization.max_steps=4", "hydra.launcher.array_parallelism=1"
    )
    assert "Slurm refuses the jobs" in sweep.run("hydra.launcher.partition=nowhere", expect=1)
    said = sweep.run(expect=1)
    done, failed = sweep.folders()
    assert [status(done), status(failed)] == ["done", "failed"]
    (script,) = sweep.scripts()
    assert "--array=0-1%1" in script and "--requeue" in script and "--signal=USR2@120" in script
    log = log_of_job(done)
    number = script_number(sweep)
    assert f"Slurm job {number}: 2 cells" in said and log.name == f"{number}_0_0_log.out"
    assert "Job completed successfully" in log.read_text()
    assert read_record(done)["files"]["log"] == LOG and "==> Training" in (done / LOG).read_text()
    assert read_record(done)["environment"]["cpu"]["threads"] == 1
    assert "corruption.rate" in json.loads((failed / FAILURE).read_text())["error"]
    again = sweep.run(expect=1)
    assert "1 done, 1 failed" in again and "Slurm job" not in again and len(sweep.scripts()) == 1


@pytest.mark.slow
def test_a_preempted_cell_goes_on_from_the_step_it_was_in(cluster: Path, tmp_path: Path) -> None:
    straight = Sweep(tmp_path / "straight", *LONG)
    straight.run()
    sweep = Sweep(tmp_path / "preempted", *SLURM, *LONG, "+hydra.launcher.additional_parameters.exclusive=true")
    process = sweep.start()
    folder = sweep.wait_for_step(5, process)
    preempt()
    ended(process)
    assert_same_run(folder, straight.folders()[0])
    assert_saved_where_it_was_asked(folder)
    assert "this job is preempted" in log_of_job(folder).read_text()
    assert job(script_number(sweep))["Restarts"] == "1"
    assert not (folder / LEASE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_one_run_in_two_tasks_is_preempted_and_goes_on(trainer: str, cluster: Path, tmp_path: Path) -> None:
    words = (*LONG, *TWO, f"trainer={trainer}")
    straight = Sweep(tmp_path / "straight", *words)
    straight.run()
    sweep = Sweep(tmp_path / "preempted", *SLURM, *words, "+hydra.launcher.additional_parameters.exclusive=true")
    process = sweep.start()
    folder = sweep.wait_for_step(5, process)
    preempt()
    ended(process)
    assert "--ntasks-per-node=2" in sweep.scripts()[0]
    assert_same_run(folder, straight.folders()[0])
    assert_saved_where_it_was_asked(folder)
    # One process speaks for both, and each has a log of its own.
    assert (folder / LOG).read_text().count("==> Evaluation after") == 1
    assert len(list(log_of_job(folder).parent.glob("*_log.out"))) == 2


@pytest.mark.slow
def test_a_killed_job_is_noticed_and_its_cell_made_once_more(cluster: Path, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, *SLURM, *LONG, "seed=0,1", "hydra.launcher.array_parallelism=1")
    process = sweep.start()
    folder = sweep.wait_for_step(5, process)
    # The one that waits is cancelled, the one that runs is killed: neither leaves a word.
    slurm("scancel", f"{script_number(sweep)}_1")
    owner = wait_until(lambda: read_owner(folder / LEASE), "the owner of the cell")
    os.kill(owner.pid, signal.SIGKILL)
    said = ended(process, expect=1)
    assert "2 Slurm jobs, such as" in said and said.count("ended without a word") == 1
    assert "1 of 2 cells are not done" in said
    assert sorted(map(status, sweep.folders())) == ["done", "missing"]
    assert len(sweep.scripts()) == 2


def script_number(sweep: Sweep) -> str:
    """Slurm's number of the sweep's first job."""
    first = min(sweep.runs.glob("slurm/*/*_submission.sh"), key=lambda path: path.stat().st_mtime_ns)
    return first.name.partition("_")[0]
