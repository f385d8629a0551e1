"""One owner at a time: whatever dies, and whenever."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from kto_lab.runs import lease as lease_module
from kto_lab.runs.job import Job
from kto_lab.runs.lease import LEASE, Owner, held, read_owner


class Clock:
    """The observer's: it moves on when the observer sleeps, and something may happen meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waited = 0.0
        self.meanwhile: Callable[[float], None] = lambda waited: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waited += seconds
        self.meanwhile(self.waited)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lease_module.time, "monotonic", lambda: made.now)
    monkeypatch.setattr(lease_module.time, "sleep", made.sleep)
    return made


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Makes this process one of a Slurm job."""

    def enter(identity: str, start: int) -> None:
        job = Job(identity, start, rank=0, processes=1, log=Path("log.out"))
        monkeypatch.setattr(Job, "current", lambda: job)

    return enter


def left_by(folder: Path, **changes: object) -> Owner:
    """A lease that somebody left."""
    owner = replace(Owner.me(), **changes)  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    (folder / LEASE).write_text(json.dumps(asdict(owner)))
    return owner


def test_it_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    with held(tmp_path / "cell") as mine:
        assert mine
        owner = read_owner(tmp_path / "cell" / LEASE)
        assert owner is not None and owner.pid == os.getpid()
        with held(tmp_path / "cell") as other:
            assert not other
        assert read_owner(tmp_path / "cell" / LEASE) == owner
    assert not (tmp_path / "cell").exists()
    with held(tmp_path / "cell") as again:
        assert again
        (tmp_path / "cell" / "work").write_text("")
    assert [path.name for path in (tmp_path / "cell").iterdir()] == ["work"]


def test_a_process_that_died_here_is_known_at_once(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left_by(tmp_path, pid=int(done.stdout))
    with held(tmp_path) as mine:
        assert mine
    assert list(tmp_path.iterdir()) == []


def test_a_later_process_of_the_same_number_is_another(tmp_path: Path) -> None:
    left_by(tmp_path, started=1.0)
    with held(tmp_path) as mine:
        assert mine


def test_a_clock_that_is_set_back_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by(tmp_path)
    an_hour_ago = time.time() - 3600
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: an_hour_ago)
    monkeypatch.setattr(time, "time", lambda: an_hour_ago)
    owner = read_owner(tmp_path / LEASE)
    assert owner is not None and owner.is_alive_here()
    with held(tmp_path) as mine:
        assert not mine


def test_process_numbers_of_an_earlier_start_of_the_machine_mean_nothing(tmp_path: Path, clock: Clock) -> None:
    owner = Owner.me()
    left_by(tmp_path, host=owner.host.replace("-", "+"))
    with held(tmp_path) as mine:
        assert mine
    # As of any machine elsewhere: known when it does not count.
    assert clock.waited >= 60


def test_an_owner_elsewhere_is_dead_when_its_count_stands_still(tmp_path: Path, clock: Clock) -> None:
    left_by(tmp_path, host="elsewhere")
    with held(tmp_path) as mine:
        assert mine
    assert 60 <= clock.waited < 65
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [5, 40])
def test_an_owner_elsewhere_that_counts_is_alive(after: int, tmp_path: Path, clock: Clock) -> None:
    owner = left_by(tmp_path, host="elsewhere")

    def beat(waited: float) -> None:
        if waited == after:
            left_by(tmp_path, host="elsewhere", identity=owner.identity, beat=1)

    clock.meanwhile = beat
    with held(tmp_path) as mine:
        assert not mine
    assert clock.waited == after


def test_an_owner_elsewhere_that_comes_to_its_end_leaves_the_folder(tmp_path: Path, clock: Clock) -> None:
    left_by(tmp_path, host="elsewhere")
    clock.meanwhile = lambda waited: (tmp_path / LEASE).unlink()
    with held(tmp_path) as mine:
        assert mine
    assert clock.waited == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"identity": "half a',
        b"\xff\xfe\x00 not UTF-8",
        b"[1, 2]",
        b'{"identity": "../../away", "host": "elsewhere", "pid": 1, "started": 1.0, "beat": 0}',
        b'{"identity": "a", "host": 1, "pid": "b", "started": null, "beat": []}',
    ],
    ids=["empty", "half", "not text", "a list", "a path", "other kinds"],
)
def test_a_lease_that_cannot_be_read_is_waited_for_and_then_taken(content: bytes, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / LEASE).write_bytes(content)
    assert read_owner(tmp_path / LEASE) is None
    with held(tmp_path) as mine:
        assert mine
    assert 60 <= clock.waited < 65
    assert list(tmp_path.iterdir()) == []


def test_an_heir_that_dies_is_inherited_from_in_its_turn(tmp_path: Path, clock: Clock) -> None:
    owner = left_by(tmp_path, host="elsewhere")
    os.link(tmp_path / LEASE, tmp_path / f"{LEASE}.{owner.identity}.0")
    with held(tmp_path) as mine:
        assert mine
    assert clock.waited >= 120
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_start_of_the_same_job_is_dead_at_once(
    tmp_path: Path, clock: Clock, in_job: Callable[[str, int], None]
) -> None:
    left_by(tmp_path, host="elsewhere", job="12_3", start=0)
    in_job("12_3", 1)
    with held(tmp_path) as mine:
        owner = read_owner(tmp_path / LEASE)
        assert mine and owner is not None and (owner.job, owner.start) == ("12_3", 1)
    assert clock.waited == 0


@pytest.mark.parametrize(("job", "start"), [("12_3", 1), ("12_4", 0), ("", 0)], ids=["now", "another", "none"])
def test_no_other_job_is(
    job: str, start: int, tmp_path: Path, clock: Clock, in_job: Callable[[str, int], None]
) -> None:
    left_by(tmp_path, host="elsewhere", job=job, start=start)
    in_job("12_3", 1)
    with held(tmp_path) as mine:
        assert mine
    assert clock.waited >= 60


def test_a_taken_lease_is_left_to_its_new_owner(tmp_path: Path) -> None:
    with held(tmp_path, beat_seconds=0.01) as mine:
        assert mine
        new = left_by(tmp_path / "elsewhere", host="elsewhere")
        (tmp_path / "elsewhere" / LEASE).replace(tmp_path / LEASE)
    assert read_owner(tmp_path / LEASE) == new


def test_a_living_owner_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = threading.Event()
    write = lease_module._write

    def spy(handle: int, owner: Owner) -> None:
        write(handle, owner)
        if owner.beat >= 2:
            counted.set()

    monkeypatch.setattr(lease_module, "_write", spy)
    with held(tmp_path, beat_seconds=0.01):
        assert counted.wait(timeout=30)
        owner = read_owner(tmp_path / LEASE)
        assert owner is not None and owner.beat >= 2


def _contend(folder: Path, log: Path, gate: "multiprocessing.synchronize.Barrier") -> None:
    gate.wait()
    with held(folder) as mine:
        if mine:
            with log.open("a") as file:
                file.write("one\n")
            gate.wait()
        else:
            gate.wait()


@pytest.mark.parametrize("dead", [False, True], ids=["free", "left by the dead"])
def test_of_many_who_want_it_at_once_one_gets_it(tmp_path: Path, dead: bool) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        folder, log = tmp_path / f"cell{attempt}", tmp_path / f"log{attempt}"
        if dead:
            left_by(folder, started=1.0)
        gate = context.Barrier(6)
        processes = [context.Process(target=_contend, args=(folder, log, gate)) for _ in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=60)
        assert log.read_text() == "one\n"
