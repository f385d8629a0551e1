"""Studies of others are data: their names lead nowhere, their texts are words, and what is wrong in them is said."""

import csv
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.reports import load
from kto_lab.reports.page import _runs
from kto_lab.reports.report import publish, report
from kto_lab.reports.specs import TableSpec, parse
from kto_lab.reports.table_formats import comma_separated, markdown, no_formula
from kto_lab.reports.tables import build
from tests.reports.study_folders import draw, grid, write_run, write_study

CLEAN = {"where": {"corruption.rate": 0}}
TABLE = {"name": "rates", "rows": ["arm"], "metrics": ["pass_rate"], "baseline": {"arm": "dpo"}, **CLEAN}
FIGURES = [
    {"name": "frontier", "kind": "frontier", "x": "kl", "y": "pass_rate", "log_x": True, **CLEAN},
    {"name": "lines", "kind": "line", "x": "corruption.rate", "y": "pass_rate"},
    {"name": "heat", "kind": "heatmap", "x": "corruption.rate", "y": "pass_rate"},
    {"name": "seeds", "kind": "seeds", "x": "arm", "y": "pass_rate", **CLEAN},
]


def run(folder: Path, choices: Mapping[str, Any]) -> None:
    write_run(folder, choices["seed"], draw(0.5, choices["seed"] + len(choices["arm"])), kl=3 + choices["seed"])


def study(folder: Path, *arms: str, **more: Any) -> Path:
    return write_study(folder, grid(seeds=(0, 1), arm=arms or ("dpo", "kto"), corruption__rate=[0, 0.2]), run, **more)


def edit(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def every_file(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


@pytest.mark.parametrize("run_id", ["../../../out", "/tmp/out", "..", ".hidden", "a/b", "", 7, None, "a\\b", "a\nb"])
def test_a_run_is_named_by_a_name(run_id: Any, tmp_path: Path) -> None:
    home = study(tmp_path / "in")
    edit(home / "study.json", lambda content: content["cells"][0].update(run_id=run_id))
    before = every_file(tmp_path)
    with pytest.raises(LabError, match=r"study\.json cannot be read as a study: cells\[0\]\.run_id is"):
        publish(home, tmp_path / "deep" / "er" / "target")
    assert every_file(tmp_path) == before


@pytest.mark.parametrize(
    "folder",
    ["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "/etc", "", 3, "a\x00b", "java\nscript:x"],
)
def test_a_run_is_in_a_folder_beside_its_study(folder: Any, tmp_path: Path) -> None:
    home = study(tmp_path)
    edit(home / "study.json", lambda content: content["cells"][0].update(folder=folder))
    with pytest.raises(LabError, match=r"cells\[0\]\.folder is .*, which is no path"):
        report(home)


def test_a_link_to_a_run_leads_to_a_file(tmp_path: Path) -> None:
    home = study(tmp_path)
    frame = load(home)
    frame["folder"] = "java script:alert('1')"
    links = re.findall(r'href="([^"]*)"', _runs(frame, "arm", {}))
    assert links == ["java%20script%3Aalert%28%271%27%29"] * len(frame)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("study", "name"), "../../../x"),
        (("study", "name"), ["noise"]),
        (("study", "question"), 3),
        (("study", "tables"), ["rates"]),
        (("study", "figures"), 7),
        (("command",), {"a": 1}),
        (("cells",), [1]),
        (("cells",), 5),
        (("cells", 0, "choices"), ["arm"]),
        (("cells", 0, "choices", "seed"), "first"),
        (("contrasts_named",), [{"contrast": 1, "finished": 2}]),
        (("study",), "noise"),
    ],
)
def test_what_is_wrong_in_a_study_is_said(place: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    home = study(tmp_path, tables=[TABLE])

    def change(content: Any) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    edit(home / "study.json", change)
    with pytest.raises(LabError, match=r"study\.json cannot be read as a study"):
        report(home)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metrics.answers.pass_rate.trained.value", "much"),
        ("metrics.answers.pass_rate.trained.low", "0.1"),
        ("metrics.answers.pass_rate.trained.n", [60]),
        ("metrics.kl.value", True),
        ("timings.training", "long"),
        ("training.tokens_seen", "many"),
        ("training.steps", "some"),
        ("seeds.seed", "first"),
        ("metrics", "none"),
        ("declared", {"mine": "a text"}),
    ],
)
def test_a_text_for_a_number_makes_a_record_unreadable_and_says_so(place: str, value: Any, tmp_path: Path) -> None:
    home = study(tmp_path, tables=[TABLE])
    *above, last = place.split(".")

    def change(content: Any) -> None:
        for key in above:
            content = content[key]
        content[last] = value

    edit(tmp_path / "cells" / "0000" / "record.json", change)
    if place == "declared":
        with pytest.raises(LabError, match="declares of the metric mine cannot be read"):
            report(home)
        return
    report(home)
    frame = load(home)
    assert frame["status"].tolist() == ["unreadable", *["done"] * (len(frame) - 1)]
    assert frame["message"][0]


def test_dollars_in_the_name_of_an_arm_are_letters(tmp_path: Path) -> None:
    report(study(tmp_path, r"cheap $\frac{", "dear $x_1$", "dpo", tables=[TABLE], figures=FIGURES))


def test_cells_of_a_table_are_no_formulas(tmp_path: Path) -> None:
    evil = ["=cmd|' /C calc'!A0", "@SUM(1)", "+HYPERLINK(1)", "-2+3+cmd|x", "\tx", "[a](javascript:x)\nb"]
    home = study(tmp_path, *evil, "dpo")
    table = build(load(home), parse(TABLE, TableSpec), home)
    (heads, *rows) = csv.reader(comma_separated(table).splitlines())
    assert [row[0] for row in rows[:5]] == [f"'{name}" for name in evil[:5]]
    # Numbers are still that.
    differences = [float(row[heads.index("difference")]) for row in rows[:5]]
    assert any(one < 0 for one in differences)
    assert r"[a]\(javascript:x) b |" in markdown(table)


@pytest.mark.parametrize("number", [-0.5, 3, None, "-0.5", "+1e-05", "+0.368 [+0.274, +0.453]", "-3", ""])
def test_numbers_stay_numbers(number: Any) -> None:
    assert no_formula(number) is number


def test_a_record_that_names_code_has_nothing_called(tmp_path: Path) -> None:
    home, ran = study(tmp_path, tables=[TABLE]), tmp_path / "ran"
    evil = {"_target_": "subprocess.run", "_args_": [["touch", str(ran)]]}
    edit(tmp_path / "cells" / "0000" / "record.json", lambda record: record["config"].update(loss=evil, model=evil))
    publish(home, tmp_path / "published")
    assert not ran.exists()
