"""A one-node Slurm cluster, started once for the session and stopped at its end."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.one_node import one_node

NOT_THERE = 3  # the script's exit status where Slurm is missing and cannot be installed


@pytest.fixture(scope="session")
def cluster_folder() -> Iterator[Path]:
    # A short path: sockets have no room for pytest's own.
    with tempfile.TemporaryDirectory(prefix="kto-lab-slurm-") as name:
        started = one_node("start", "--install", name)
        try:
            if started.returncode == NOT_THERE:
                pytest.skip(f"no Slurm here: {started.stderr.strip().splitlines()[-1]}")
            assert started.returncode == 0, started.stderr
            yield Path(name)
        finally:
            stopped = one_node("stop", name)
        assert stopped.returncode == 0, stopped.stderr


@pytest.fixture
def cluster(cluster_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a running cluster, which Slurm's commands in this process and below speak to."""
    monkeypatch.setenv("SLURM_CONF", str(cluster_folder / "slurm.conf"))
    return cluster_folder
