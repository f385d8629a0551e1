from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from study_folders import by_rate, fail, grid, write_study

from kto_lab.errors import LabError
from kto_lab.studies.report import TABLE_FORMATS, report

RATES = {"dpo": 0.3, "kto": 0.8}
TABLE = {"name": "rates", "rows": ["arm"], "metrics": ["pass_rate"], "baseline": {"arm": "dpo"}}
FIGURE = {"name": "frontier", "kind": "frontier", "x": "kl", "y": "pass_rate"}


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_report_is_tables_figures_and_a_page(tmp_path: Path) -> None:
    home = write_study(tmp_path, grid(arm=list(RATES)), by_rate(RATES), tables=[TABLE], figures=[FIGURE])
    page = report(home)
    tables = [f"tables/rates.{suffix}" for suffix in TABLE_FORMATS]
    figures = ["figures/frontier.png", "figures/frontier.pdf"]
    assert files(home) == sorted([*tables, *figures, "report.html", "study.json"])
    assert (home / "tables" / "rates.html").read_text() in page.read_text()
    before = {name: (home / name).read_bytes() for name in files(home)}
    report(home)
    assert {name: (home / name).read_bytes() for name in files(home)} == before


def test_a_mistake_in_a_table_leaves_nothing_half_done(tmp_path: Path) -> None:
    wrong = {**TABLE, "name": "wrong", "metrics": ["pas_rate"]}
    home = write_study(tmp_path, grid(arm=list(RATES)), by_rate(RATES), tables=[TABLE, wrong], figures=[FIGURE])
    with pytest.raises(LabError, match="table wrong: no finished run has the metric"):
        report(home)
    assert files(home) == ["study.json"]


def test_before_the_first_run_is_done_the_report_says_what_is_missing(tmp_path: Path) -> None:
    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        if cell["seed"] == 0:
            fail(folder, "The disk is full.")

    home = write_study(tmp_path, grid(arm=["dpo"]), run, tables=[TABLE], figures=[FIGURE])
    page = report(home).read_text()
    assert not (home / "figures").exists()
    assert "3 runs: 2 missing, 1 failed" in page and "The disk is full." in page
    assert "0 of 3 seeds: 1 failed, 2 missing" in (home / "tables" / "rates.md").read_text()
