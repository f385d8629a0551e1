"""One cell of a sweep."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus

from kto_lab.messages import explain
from kto_lab.runs import lease
from kto_lab.runs.lease import LEASE
from kto_lab.runs.status import status
from kto_lab.sweeps.cell import CellError, run_cell
from kto_lab.sweeps.launching import _run_here
from kto_lab.sweeps.outcome import reason_of
from tests.small_runs import configuration


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
