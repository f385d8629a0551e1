"""The processes of a run are started, watched and ended; those here are a few lines that import nothing large."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from kto_lab.errors import LabError
from kto_lab.runs import launch as launching
from kto_lab.runs.launch import KilledError, RankError, is_launched, launch
from kto_lab.stopping import Stopped
from kto_lab.training.hardware import Hardware

TWO = Hardware("cpu", 2, 1, "ddp", "32-true", deterministic=False, compile=False)
# What both have; each then does a line of its own.
BEGIN = """
import json, os, pathlib, signal, sys
order = json.load(sys.stdin)
def report(**told): pathlib.Path(order["report"]).write_text(json.dumps(told))
def failed(message): report(message=message, type="ValueError", text="odd", traceback="line 7"); sys.exit(1)
here = pathlib.Path(order["cfg"]["folder"])
"""
WAIT = "signal.pause()"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRACE_SECONDS", "GRACE_TO_SAVE_SECONDS"):
        monkeypatch.setattr(launching, name, 0.0)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str) -> str:
    code = f"{BEGIN}\nif os.environ['RANK'] == '0':\n    {first}\nelse:\n    {second}"
    monkeypatch.setattr(launching, "BEGIN", code)
    return launch("a.module:function", OmegaConf.create({"folder": str(folder), "again": "${folder}"}), TWO)


def test_each_is_told_which_it_is_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tell = "(here / os.environ['RANK']).write_text(json.dumps([order, dict(os.environ)]))"
    assert run(tmp_path, monkeypatch, tell, tell) == ""
    orders, environments = zip(*(json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1)), strict=True)
    for order in orders:
        assert order["task"] == "a.module:function" and order["parent"] == os.getpid()
        assert order["cfg"] == {"folder": str(tmp_path), "again": str(tmp_path)}
    alike = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    first, second = ({name: given[name] for name in alike} for given in environments)
    assert first == second and first["WORLD_SIZE"] == "2" and int(first["OMP_NUM_THREADS"]) >= 1
    assert [given["LOCAL_RANK"] for given in environments] == ["0", "1"]
    # Nothing of it stays here.
    assert "WORLD_SIZE" not in os.environ and not is_launched()


def test_on_another_node_ranks_go_on_where_those_of_the_first_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setattr(
        launching, "BEGIN", f"{BEGIN}\n(here / os.environ['RANK']).write_text(os.environ['MASTER_PORT'])"
    )
    four = Hardware("cpu", 2, 2, "ddp", "32-true", deterministic=False, compile=False)
    launch("a.module:function", OmegaConf.create({"folder": str(tmp_path)}), four)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"2": "29500", "3": "29500"}


def test_the_failure_of_another_ends_the_first_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError, match="no memory"):
        run(tmp_path, monkeypatch, WAIT, "failed('no memory')")


def test_an_error_that_nobody_foresaw_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RankError, match="ValueError: odd") as error:
        run(tmp_path, monkeypatch, WAIT, "failed(None)")
    assert error.value.__notes__ == ["In process 2 of 2:\nline 7"]


def test_a_killed_process_is_said_with_what_it_said_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = "print('step 7', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(KilledError, match=r"(?s)Process 2 of 2 .*SIGKILL, as a rule for want of memory.*step 7"):
        run(tmp_path, monkeypatch, WAIT, killed)


def test_the_others_end_with_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = "(here / 'pid').write_text(str(os.getpid())); "
    assert run(tmp_path, monkeypatch, "pass", pid + WAIT) == ""
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_another_failed_of_is_told_where_the_first_has_written_what_became_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first has met an end of the connection, say, and has recorded that.
    monkeypatch.setattr(launching, "GRACE_TO_SAVE_SECONDS", 60.0)
    looked = launching._watch
    seen = "while not (here / 'seen').exists(): signal.sigtimedwait([], 0.02)"

    def watch(ranks: Any, failed: Any) -> None:
        ranks[1].process.wait()
        failed.append(ranks[1])
        (tmp_path / "seen").touch()
        looked(ranks, failed)

    monkeypatch.setattr(launching, "_watch", watch)
    assert run(tmp_path, monkeypatch, seen, "failed('no memory')") == "Process 2 of 2: no memory"


def test_being_told_to_stop_is_passed_on_and_what_is_saved_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = (
        "signal.signal(signal.SIGTERM, lambda *_: (report(stopped=15, saved='Step 2 is saved.'), sys.exit(143))); "
        "(here / os.environ['RANK']).touch(); signal.pause()"
    )
    watch, asked = launching._watch, []

    def interrupted(ranks: Any, failed: Any) -> None:
        if not asked:
            while len(list(tmp_path.iterdir())) < 2:
                os.sched_yield()
            asked.append(True)
            raise Stopped(signal.SIGTERM)
        monkeypatch.setattr(launching, "GRACE_SECONDS", 60.0)
        watch(ranks, failed)

    monkeypatch.setattr(launching, "_watch", interrupted)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, monkeypatch, saves, saves)
    assert stopped.value.code == 143 and stopped.value.saved == "Step 2 is saved."


def test_a_signal_to_one_process_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRACE_SECONDS", "GRACE_TO_SAVE_SECONDS"):
        monkeypatch.setattr(launching, name, 60.0)
    asked = "report(stopped=15, saved='Step 4 is saved.'); sys.exit(143)"
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, monkeypatch, "pass", asked)
    assert stopped.value.saved == "Step 4 is saved."
