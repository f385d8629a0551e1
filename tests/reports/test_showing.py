from pathlib import Path

import pytest

from kto_lab.errors import LabError
from kto_lab.reports import open_study
from kto_lab.reports.report import report
from tests.reports.study_folders import by_rate, grid, write_study

RATES = {"dpo": 0.3, "kto": 0.8}
TABLE = {"name": "rates", "rows": ["arm"], "metrics": ["pass_rate"], "baseline": {"arm": "dpo"}}
FIGURE = {"name": "frontier", "kind": "frontier", "x": "kl", "y": "pass_rate"}


BETTER = {"name": "better", "of": {"arm": "kto"}, "against": {"arm": "dpo"}, "metric": "pass_rate", "expect": "greater"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shown = {"tables": [TABLE], "figures": [FIGURE], "contrasts": [BETTER]}
    return write_study(tmp_path, grid(arm=list(RATES)), by_rate(RATES), **shown)


def test_a_notebook_shows_what_the_report_has(home: Path) -> None:
    report(home)
    study = open_study(home)
    assert len(study.frame) == 6 and study.about.question == "Does noise hurt?"
    assert study.table("rates")._repr_markdown_() == (home / "tables" / "rates.md").read_text()
    assert "**0.8" in study.table("rates").text
    assert study.contrasts()._repr_markdown_() == (home / "tables" / "contrasts.md").read_text()
    assert study.figure("frontier")._repr_png_() == (home / "figures" / "frontier.png").read_bytes()


def test_a_specification_can_be_changed(home: Path) -> None:
    study = open_study(home)
    alone = study.table("rates", where={"arm": "kto"}, baseline=None).text
    assert "| kto |" in alone and "| dpo |" not in alone
    assert study.figure("frontier", where={"arm": "kto"}).png != study.figure("frontier").png


def test_what_is_not_there_is_said(home: Path) -> None:
    with pytest.raises(LabError, match=r"no table 'rate'\. It has rates"):
        open_study(home).table("rate")
    with pytest.raises(LabError, match=r"no figure 'rates'\. It has frontier"):
        open_study(home).figure("rates")
