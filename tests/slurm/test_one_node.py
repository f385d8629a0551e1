"""What a sweep needs of Slurm, on a real one: arrays, requeue, signals ahead of a kill, preemption, submitit."""

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import submitit

from tests.slurm.one_node import job, one_node, sbatch, slurm, wait_for_state, wait_until

# A job that starts twice: it says which start this is, and the first one waits for what happens to it.
TWICE = """
echo "${SLURM_RESTART_COUNT:-0}" >> starts
[ -n "$SLURM_RESTART_COUNT" ] || sleep infinity
"""


def test_nothing_runs_in_an_empty_folder(tmp_path: Path) -> None:
    status = one_node("status", str(tmp_path))
    assert status.returncode == 1
    assert f"nothing runs in {tmp_path}" in status.stderr


@pytest.mark.slow
def test_a_path_too_long_for_a_socket_is_refused(cluster: Path, tmp_path: Path) -> None:
    started = one_node("start", str(tmp_path / ("x" * 100)))
    assert started.returncode == 1
    assert "choose a shorter one" in started.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_open_to_others_is_refused(cluster: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        started = one_node("start", name)
        assert started.returncode == 1
        assert "not yours alone" in started.stderr
        assert list(Path(name).iterdir()) == []


@pytest.mark.slow
def test_start_finds_a_cluster_that_runs(cluster: Path) -> None:
    again = one_node("start", str(cluster))
    assert again.stdout == f"export SLURM_CONF={cluster}/slurm.conf\n"
    assert "runs already" in again.stderr
    assert one_node("status", str(cluster)).returncode == 0


@pytest.mark.slow
def test_stop_ends_the_jobs_even_after_a_daemon_died(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="kto-lab-slurm-") as name:
        assert one_node("start", name).returncode == 0
        monkeypatch.setenv("SLURM_CONF", f"{name}/slurm.conf")
        sbatch("trap '' TERM; echo $$ > number; mv number process; sleep infinity", f"--chdir={tmp_path}")
        process = Path("/proc", wait_until(lambda: read(tmp_path / "process"), "the job"))
        os.kill(int(Path(name, "slurmd.pid").read_text()), signal.SIGKILL)
        assert "a daemon is missing" in wait_until(lambda: one_node("status", name).stderr, "slurmd to die")
        assert process.exists()
        stopped = one_node("stop", name)
        assert stopped.returncode == 0, stopped.stderr
        assert not process.exists()
        assert "nothing runs" in one_node("status", name).stderr


@pytest.mark.slow
def test_an_array_runs_as_many_at_once_as_it_says(cluster: Path, tmp_path: Path) -> None:
    script = "until [ -e go ]; do sleep 0.1; done; touch done.$SLURM_ARRAY_TASK_ID"
    sbatch(script, "--array=0-2%1", f"--chdir={tmp_path}")
    wait_until(lambda: slurm("squeue", "-h", "-t", "running"), "the first job of the array")
    wait_until(lambda: "(JobArrayTaskLimit)" in slurm("squeue", "-h", "-t", "pending"), "the others to be held back")
    assert len(slurm("squeue", "-h", "-t", "running").splitlines()) == 1
    (tmp_path / "go").touch()
    wait_until(lambda: len(list(tmp_path.glob("done.*"))) == 3, "the whole array")


@pytest.mark.slow
def test_a_requeued_job_starts_again_under_its_id(cluster: Path, tmp_path: Path) -> None:
    number = sbatch(TWICE, f"--chdir={tmp_path}")
    wait_until((tmp_path / "starts").exists, "the first start")
    slurm("scontrol", "requeue", number)
    wait_for_state(number, "COMPLETED")
    assert (tmp_path / "starts").read_text().split() == ["0", "1"]
    assert job(number)["Restarts"] == "1"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_signal_comes_ahead_of_the_time_limit(name: str, cluster: Path, tmp_path: Path) -> None:
    script = f"trap 'echo {name} > got; exit 0' {name}; sleep infinity & wait"
    # One minute is the shortest limit. Slurm may be a minute early with the signal, but not late.
    number = sbatch(script, "--time=1", f"--signal=B:{name}@30", f"--chdir={tmp_path}")
    wait_for_state(number, "COMPLETED")
    assert (tmp_path / "got").read_text() == f"{name}\n"


@pytest.mark.slow
def test_submitit_brings_the_value_of_a_function_back(cluster: Path, tmp_path: Path) -> None:
    def work(left: int, right: int) -> dict[str, Any]:
        return {"sum": left + right, "job": os.environ["SLURM_JOB_ID"]}

    submitted = executor(tmp_path).submit(work, 2, 3)
    wait_until(submitted.done, "submitit's result")
    assert submitted.result() == {"sum": 5, "job": submitted.job_id}


@pytest.mark.slow
def test_a_preempted_submitit_job_goes_on_from_its_checkpoint(cluster: Path, tmp_path: Path) -> None:
    class Work:
        """Waits until it is preempted, and says what it knows when it goes on."""

        def __init__(self, known: str) -> None:
            self.known = known

        def __call__(self) -> tuple[str, str]:
            if self.known == "nothing":
                (tmp_path / "started").touch()
                while True:
                    signal.pause()
            return self.known, os.environ["SLURM_RESTART_COUNT"]

        def checkpoint(self) -> submitit.helpers.DelayedSubmission:
            return submitit.helpers.DelayedSubmission(Work("everything"))

    submitted = executor(tmp_path / "submitit", slurm_exclusive=True).submit(Work("nothing"))
    wait_until((tmp_path / "started").exists, "the first start")
    urgent = sbatch("true", "--partition=high", "--exclusive", "--output=/dev/null")
    wait_for_state(urgent, "COMPLETED")
    wait_until(submitted.done, "submitit's result")
    assert submitted.result() == ("everything", "1")
    assert "this job is preempted" in (submitted.stderr() or "")


def read(path: Path) -> str:
    """The text of a file, or nothing while it is not there."""
    return path.read_text().strip() if path.exists() else ""


def executor(folder: Path, **parameters: Any) -> submitit.AutoExecutor:
    """Submitit with a limit of an hour: with ten minutes or less it takes every preemption for a time-out."""
    made = submitit.AutoExecutor(folder, cluster="slurm")
    made.update_parameters(timeout_min=60, **parameters)
    return made
