import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kto_lab.cli import config_dir
from kto_lab.errors import LabError
from kto_lab.reports import load
from kto_lab.reports.report import HTML, TABLE_FORMATS, publish, report, report_study
from kto_lab.sweeps.study import cells_of
from kto_lab.sweeps.sweep import study_of
from tests.reports.study_folders import by_rate, draw, fail, grid, write_run, write_study
from tests.small_runs import composed

RATES = {"dpo": 0.3, "kto": 0.8}
TABLE = {"name": "rates", "rows": ["arm"], "metrics": ["pass_rate"], "baseline": {"arm": "dpo"}}
FIGURE = {"name": "frontier", "kind": "frontier", "x": "kl", "y": "pass_rate"}


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_report_is_tables_figures_and_a_page(tmp_path: Path) -> None:
    home = write_study(tmp_path, grid(arm=list(RATES)), by_rate(RATES), tables=[TABLE], figures=[FIGURE])
    page = report(home)
    tables = [f"tables/{name}.{suffix}" for name in ("rates", "budgets") for suffix in (*TABLE_FORMATS, HTML)]
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


def test_a_search_is_listed_once_in_a_table_of_its_own(tmp_path: Path) -> None:
    choose = {"choose": {"over": ["corruption.rate"], "by": "pass_rate"}}
    figures = [{**FIGURE, **choose}, {**FIGURE, **choose, "name": "kto", "where": {"arm": "kto"}}]
    home = write_study(
        tmp_path,
        grid(arm=list(RATES), corruption__rate=[0, 0.4]),
        by_rate(RATES),
        tables=[{**TABLE, **choose}],
        figures=figures,
    )
    page = report(home).read_text()
    tables = sorted({file.stem for file in (home / "tables").iterdir()})
    # The frontier's search is the table's; the other one has fewer cells.
    assert tables == ["budgets", "kto_chosen", "rates", "rates_chosen"]
    assert all((home / "tables" / f"{name}.html").read_text() in page for name in tables)


@pytest.mark.parametrize("name", sorted(file.stem for file in (config_dir() / "study").glob("*.yaml")))
def test_a_study_that_ships_can_be_reported(name: str, tmp_path: Path) -> None:
    study = study_of(composed([f"study={name}"]).study)
    cells = [cell.choices for cell in cells_of(study, ["seed=0,1"])]
    arms = list(study.arms)

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        write_run(folder, cell["seed"], draw(0.4 + 0.05 * arms.index(cell["arm"]), cell["seed"]))
        found = json.loads((folder / "record.json").read_text())
        found["metrics"]["answers"]["sentiment"] = found["metrics"]["answers"]["answer_length"]
        (folder / "record.json").write_text(json.dumps(found))

    home = write_study(tmp_path, cells, run, tables=study.tables, figures=study.figures)
    report(home)
    assert {f"figures/{figure['name']}.pdf" for figure in study.figures} <= set(files(home))
    assert {f"tables/{table['name']}.md" for table in study.tables} <= set(files(home))


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    home = write_study(tmp_path, grid(arm=list(RATES)), by_rate(RATES), tables=[TABLE, TABLE])
    with pytest.raises(LabError, match="Two tables are called rates"):
        report(home)
    with pytest.raises(LabError, match="Two figures are called frontier"):
        report(home, tables=[TABLE], figures=[FIGURE, FIGURE])
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


def noise(folder: Path, **more: Any) -> Path:
    made = by_rate(RATES)

    def run(where: Path, cell: Mapping[str, Any]) -> None:
        fail(where, "no memory") if (cell["arm"], cell["seed"]) == ("dpo", 2) else made(where, cell)

    return write_study(folder, grid(arm=list(RATES)), run, tables=[TABLE], figures=[FIGURE], **more)


def test_a_published_study_says_the_same_and_stands_alone(tmp_path: Path) -> None:
    home = noise(tmp_path / "runs")
    report(home)
    page = publish(home, tmp_path / "published")
    copy = page.parent
    for name in [f"tables/rates.{suffix}" for suffix in (*TABLE_FORMATS, HTML)] + ["figures/frontier.png"]:
        assert (copy / name).read_bytes() == (home / name).read_bytes(), name
    (tmp_path / "runs").rename(tmp_path / "gone")
    before, now = load(tmp_path / "gone" / "studies" / "noise"), load(copy)
    assert before.drop(columns="folder").equals(now.drop(columns="folder"))
    assert list(now["status"]).count("failed") == 1
    # Reported again from the copy alone, paired by prompt as before.
    assert "paired by seed and prompt" in (copy / "tables" / "rates.md").read_text()
    written = {name: (copy / name).read_bytes() for name in files(copy)}
    report(copy)
    assert {name: (copy / name).read_bytes() for name in files(copy)} == written
    assert not [name for name in files(copy) if "evaluation" in name]


def test_a_search_can_be_made_in_a_published_study(tmp_path: Path) -> None:
    choose = {"choose": {"over": ["corruption.rate"], "by": "pass_rate"}}
    cells = grid(arm=list(RATES), corruption__rate=[0, 0.4])
    home = write_study(tmp_path / "runs", cells, by_rate(RATES), tables=[{**TABLE, **choose}])
    report(home)
    copy = publish(home, tmp_path / "published").parent
    for name in ("rates.md", "rates_chosen.md"):
        assert (copy / "tables" / name).read_text() == (home / "tables" / name).read_text()


def test_publishing_again_replaces_and_never_overwrites_something_else(tmp_path: Path) -> None:
    home, target = noise(tmp_path / "runs"), tmp_path / "published"
    publish(home, target)
    (target / "left over").write_text("from before")
    publish(home, target, tables=[{**TABLE, "name": "other"}])
    assert "left over" not in files(target) and "tables/other.md" in files(target)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("dear")
    with pytest.raises(LabError, match="holds something other than the study noise"):
        publish(home, other)
    assert files(other) == ["thesis.tex"]


def test_a_report_shows_the_metrics_of_the_scale_that_was_swept(tmp_path: Path) -> None:
    name = "loss_aversion"
    study = study_of(composed([f"study={name}"]).study)
    cells = [cell.choices for cell in cells_of(study, ["seed=0,1", "scale=paper"])]
    home = write_study(tmp_path / "made", cells, lambda folder, cell: write_run(folder, cell["seed"], [1.0, 0.0]))
    content = json.loads((home / "study.json").read_text())
    content |= {"scale": "paper", "study": content["study"] | {"name": name}}
    (home / "study.json").write_text(json.dumps(content))
    swept = tmp_path / "made" / "studies" / name
    home.rename(swept)
    report_study(composed([f"study={name}", f"runs_dir={tmp_path / 'made'}"], name="report"))
    table = (swept / "tables" / "pass_rate.md").read_text()
    assert "pairs ranked right" in table and "pass rate" not in table
