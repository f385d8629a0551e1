"""For the tests: the script that starts a one-node Slurm, and Slurm's commands on the cluster that SLURM_CONF names."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm_one_node.sh"
T = TypeVar("T")


def one_node(*words: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/slurm_one_node.sh."""
    return subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, timeout=900)


def wait_until(check: Callable[[], T], what: str, within: float = 120.0) -> T:
    """Poll until `check` gives something true, and return it; fails after `within` seconds."""
    deadline = time.monotonic() + within
    while not (value := check()):
        assert time.monotonic() < deadline, f"waited {within:.0f} s for {what}; jobs:\n{slurm('squeue', '--long')}"
        time.sleep(0.1)
    return value


def slurm(*command: str, stdin: str | None = None) -> str:
    """What one of Slurm's commands prints."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def sbatch(script: str, *options: str) -> str:
    """Submit a shell script; returns its job id."""
    return slurm("sbatch", "--parsable", *options, stdin=f"#!/bin/bash\n{script}").strip()


def job(job_id: str) -> dict[str, str]:
    """Slurm's fields of one job, such as JobState and Restarts; of ended jobs, too."""
    words = slurm("scontrol", "show", "job", "--oneliner", job_id).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def wait_for_state(job_id: str, state: str) -> None:
    """Wait until a job is in a state; fails at once where it ended in another."""
    ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"} - {state}

    def reached() -> bool:
        found = job(job_id)["JobState"]
        assert found not in ends, f"job {job_id} is {found}, not {state}"
        return found == state

    wait_until(reached, f"job {job_id} to be {state}")
