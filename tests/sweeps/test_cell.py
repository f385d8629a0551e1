"""One cell of a sweep."""

import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from kto_lab.errors import LabError
from kto_lab.messages import explain
from kto_lab.runs import command, lease
from kto_lab.runs.job import LOG
from kto_lab.runs.launch import KilledError
from kto_lab.runs.lease import LEASE
from kto_lab.runs.record import RECORD
from kto_lab.runs.status import FAILURE, status
from kto_lab.sealed import write_json
from kto_lab.stopping import Stopped
from kto_lab.sweeps import cell
from kto_lab.sweeps.cell import CellError, clear_after_kill, run_cell
from kto_lab.sweeps.launching import _run_here
from kto_lab.sweeps.outcome import reason_of
from tests.small_runs import configuration, instead
from tests.sweeps.small_study import Sweep


def test_a_cell_that_is_another_than_was_planned_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cells" / "0123456789abcdef"
    run_cell(configuration(tmp_path, f"run_dir={folder}"))
    assert status(folder) == "missing"
    said = " ".join(capsys.readouterr().out.split())
    assert "is not run: here its identity is" in said and "Sweep again" in said


def test_a_cell_whose_lease_is_no_file_fails_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "Watch", partial(lease.Watch, patience=0))
    folder = tmp_path / "run"
    (folder / LEASE).mkdir(parents=True)
    run_cell(configuration(tmp_path))
    assert status(folder) == "failed" and "Could not write" in reason_of(folder, {})


def test_a_cell_whose_folder_cannot_be_made_hands_its_reason_to_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CellError, match="Could not write") as error:
        run_cell(configuration(tmp_path, f"run_dir={tmp_path / 'file' / 'run'}"))
    assert explain(error.value) is None
    cfg = configuration(tmp_path)
    ended = [JobReturn(cfg=cfg, status=JobStatus.FAILED, _return_value=error.value), JobReturn(cfg=cfg)]
    launcher = SimpleNamespace(launch=lambda jobs, initial_job_idx: ended)
    problems = _run_here(launcher, [[]], 0)
    assert list(problems) == [tmp_path / "run"] and "Not a directory" in problems[tmp_path / "run"]


def two_processes(folder: Path) -> DictConfig:
    return configuration(folder, "trainer=ddp", "trainer.accelerator=cpu")


def test_a_cell_of_two_processes_has_both_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(cell, "launch", lambda *given: started.append(given) or "")
    assert run_cell(two_processes(tmp_path)) == "missing"
    ((task, cfg, hardware),) = started
    assert task == "kto_lab.sweeps.cell:run_cell" and cfg.run_dir == str(tmp_path / "run")
    assert hardware.processes == 2 and not (tmp_path / "run").exists()
    # One of them is the cell itself, or takes part.
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(command, "train_in_own_folder", lambda own, cache: started.append(own.run_dir))
    run_cell(two_processes(tmp_path))
    assert started[1:] == [str(tmp_path / "run")]


def test_what_befell_another_process_of_a_cell_is_its_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cfg = tmp_path / "run", two_processes(tmp_path)

    def killed(*_: object) -> str:
        raise KilledError("Process 2 of 2 was killed")

    def failed(*_: object) -> str:
        # The first was killed because the other had failed, and could not let go of the cell.
        folder.mkdir()
        (folder / LEASE).touch()
        raise LabError("no memory")

    def told(*_: object) -> str:
        write_json(folder / FAILURE, {"error": "Connection closed", "traceback": "line 7"})
        return "Process 2 of 2: no memory"

    def stopped(*_: object) -> str:
        told()
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(cell, "launch", killed)
    with pytest.raises(CellError, match="Process 2 of 2 was killed"):
        run_cell(cfg)
    assert status(folder) == "missing"
    monkeypatch.setattr(lease, "Watch", partial(lease.Watch, patience=0))
    monkeypatch.setattr(cell, "launch", failed)
    assert run_cell(cfg) == "failed" and reason_of(folder, {}) == "no memory"
    monkeypatch.setattr(cell, "launch", told)
    assert run_cell(cfg) == "failed"
    assert reason_of(folder, {}) == "Connection closed\nProcess 2 of 2: no memory"
    monkeypatch.setattr(cell, "launch", stopped)
    with pytest.raises(Stopped):
        run_cell(cfg)
    assert status(folder) == "missing"


@pytest.mark.slow
def test_a_sweep_of_two_processes_goes_on_after_a_cell_that_fails(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    (study,) = sweep.folder.glob("own/study/*.yaml")
    study.write_text(re.sub(", sft: .*]", "", study.read_text()))
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "corruption.rate=2,0")
    sweep.words = instead(sweep.words, *ddp)
    said = sweep.run(expect=1)
    assert "1 of 2 cells are not done" in said and "corruption.rate" in said
    assert [status(folder) for folder in sweep.folders()] == ["failed", "done"]
    for folder in sweep.folders():
        assert not (folder / LEASE).exists() and "==>" in (folder / LOG).read_text()


def test_what_a_cell_leaves_that_is_killed_after_its_record_goes(tmp_path: Path) -> None:
    target = tmp_path / "run" / RECORD
    code = (
        "import os, sys; from pathlib import Path\n"
        "from kto_lab.files import atomic_path; from kto_lab.runs import lease\n"
        "folder = Path(sys.argv[1])\n"
        "with lease.held(folder), atomic_path(folder / 'record.json') as partial:\n"
        "    (folder / 'checkpoints').mkdir(); (folder / 'checkpoints' / 'stopped.ckpt').touch()\n"
        "    partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target.parent)]).returncode == -9
    target.write_text('{"schema": 2}')
    assert len(list(target.parent.iterdir())) == 4
    clear_after_kill(target.parent)
    assert list(target.parent.iterdir()) == [target]
    with lease.held(target.parent):
        (target.parent / "checkpoints").mkdir()
        clear_after_kill(target.parent)
        assert (target.parent / "checkpoints").exists()
