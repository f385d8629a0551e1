"""A job in a process of joblib's has GPUs of its own: pretended ones, in real processes."""

import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from joblib import Parallel, delayed
from omegaconf import OmegaConf

from kto_lab import cli, gpus
from kto_lab.errors import LabError
from kto_lab.sweeps import claims
from kto_lab.sweeps.claims import end_idle_processes, own_gpus

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of four GPUs for this process, and the folder of the locks."""
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv(VISIBLE, "0,1,2,3")
    monkeypatch.setattr(claims, "_own", ())
    monkeypatch.setattr(gpus, "_nvidia_smi", str)
    folder = tmp_path / claims.FOLDER / socket.gethostname()
    folder.mkdir(parents=True)
    return folder


def taken_elsewhere(folder: Path, *names: str) -> Iterator[None]:
    files = [(folder / name).open("w") for name in names]
    for file in files:
        fcntl.flock(file, fcntl.LOCK_EX)
    yield
    for file in files:
        file.close()


def claimed(accelerator: str, devices: int) -> str | None:
    with own_gpus(accelerator, devices):
        return os.environ.get(VISIBLE)


def in_fresh_processes(jobs: list[tuple[str, int]], meet: Callable[[int], None]) -> list[tuple[str | None, bool]]:
    """What each of some jobs claims in a process of its own, and whether torch was imported before."""

    def job(number: int, accelerator: str, devices: int) -> tuple[str | None, bool]:
        import os
        import sys

        from kto_lab.sweeps.claims import own_gpus

        before = "torch" in sys.modules
        with own_gpus(accelerator, devices):
            meet(number)
            return os.environ.get("CUDA_VISIBLE_DEVICES"), before

    end_idle_processes()
    try:
        return Parallel(n_jobs=2, batch_size=1)(delayed(job)(number, *one) for number, one in enumerate(jobs))
    finally:
        end_idle_processes()


def test_two_processes_at_once_have_different_gpus(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def meet(number: int) -> None:
        # Opened by one, a pipe waits for the other.
        with pipe.open("w" if number else "r"):
            pass

    found = in_fresh_processes([("auto", 2), ("gpu", 2)], meet)
    assert sorted(names or "" for names, _ in found) == ["0,1", "2,3"]
    assert not any(before for _, before in found), "CUDA would have its GPUs already"


def test_gpus_of_others_are_left_to_them(machine: Path) -> None:
    others = taken_elsewhere(machine, "0", "2")
    next(others)
    assert claimed("auto", 2) == "1,3"


def test_a_gpu_is_one_however_it_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_nvidia_smi", lambda: "GPU 0: A100 (UUID: GPU-aa)\nGPU 1: A100 (UUID: GPU-bb)\n")
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: pytest.fail("a free GPU is waited for"))
    others = taken_elsewhere(machine, "GPU-aa", "0")
    next(others)
    monkeypatch.setenv(VISIBLE, "0,1")
    assert claimed("auto", 1) == "1", "GPU-aa is taken"
    # In another job of Slurm's, which numbers its own GPU from 0.
    monkeypatch.setattr(gpus, "_nvidia_smi", lambda: "GPU 0: A100 (UUID: GPU-bb)\n")
    monkeypatch.setattr(claims, "_own", ())
    monkeypatch.setenv(VISIBLE, "0")
    assert claimed("auto", 1) == "0"


def test_a_process_keeps_its_gpus_for_its_next_jobs_and_lets_go_between_them(machine: Path) -> None:
    others = taken_elsewhere(machine, "0")
    next(others)
    assert claimed("auto", 1) == "1"
    next(others, None)
    assert claimed("auto", 1) == "1", "although the first is free now"
    with (machine / "1").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(LabError, match=r"trainer\.devices is 2, but an earlier job of this process took 1"):
        claimed("auto", 2)


def test_a_claim_waits_until_enough_gpus_are_free_and_holds_none_meanwhile(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = taken_elsewhere(machine, "1", "2", "3")
    next(others)

    def sleep(seconds: float) -> None:
        with (machine / "0").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        next(others, None)

    monkeypatch.setattr(claims.time, "sleep", sleep)
    assert claimed("gpu", 2) == "0,1"
    assert capsys.readouterr().out.count("Waiting for 2 of the GPUs 0, 1, 2, 3") == 1


@pytest.mark.parametrize(("accelerator", "devices", "visible"), [("cpu", 1, "0,1"), ("auto", 1, ""), ("gpu", 3, "0,1")])
def test_where_there_is_nothing_to_claim_the_trainer_has_the_word(
    accelerator: str, devices: int, visible: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    assert claimed(accelerator, devices) == visible
    assert not list(machine.iterdir())


def test_a_file_system_without_locks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(claims.fcntl, "flock", refuse)
    with pytest.raises(LabError, match=r"No locks available\. Set KTO_LAB_CACHE"):
        claimed("auto", 1)


def test_a_lock_that_cannot_be_opened_is_said_and_no_other_is_held(machine: Path) -> None:
    (machine / "1").mkdir()  # stands in for a file of another user, which root could open
    with pytest.raises(LabError, match=r"Could not lock a file in .*: Is a directory"):
        claimed("auto", 2)
    with (machine / "0").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_memory_of_a_gpu_is_given_back_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    torch = SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: emptied.append(True)))
    monkeypatch.setitem(sys.modules, "torch", torch)
    claimed("auto", 1)
    assert emptied == [True]


@pytest.mark.parametrize(
    ("launcher", "elsewhere", "claims_one"),
    [("joblib_launcher.JoblibLauncher", True, True), ("joblib_launcher.JoblibLauncher", False, False),
     ("submitit_launcher.SlurmLauncher", True, False)],
)  # fmt: skip
def test_jobs_of_processes_on_this_machine_claim(
    launcher: str, elsewhere: bool, claims_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"launcher": {"_target_": f"a.{launcher}"}}))
    cfg = OmegaConf.create({"trainer": {"accelerator": "auto", "devices": 1}})
    with cli._gpus_of_job(cfg, process=0 if elsewhere else os.getpid()):
        assert os.environ[VISIBLE] == ("0" if claims_one else "0,1,2,3")
    with cli._gpus_of_job(OmegaConf.create({"other": 1}), process=0):
        assert os.environ[VISIBLE] == ("0" if claims_one else "0,1,2,3")
