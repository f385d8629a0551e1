"""One cell of a sweep."""

from pathlib import Path

import pytest

from kto_lab.runs.status import status
from kto_lab.sweeps.cell import run_cell
from tests.small_runs import configuration


def test_a_cell_that_is_another_than_was_planned_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cells" / "0123456789abcdef"
    run_cell(configuration(tmp_path, f"run_dir={folder}"))
    assert status(folder) == "missing"
    said = " ".join(capsys.readouterr().out.split())
    assert "is not run: here its identity is" in said and "Sweep again" in said
