"""CONTRIBUTING.md: a loss, an optimiser, a feedback source, a metric and a study, each one file and one test."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.documented import ROOT, run_command
from tests.pasted import paste, paste_files, shell_lines

# What makes the runs of a command small.
SMALL = {
    "train": ["evaluation=quick"],
    "sweep": ["seed=0", "evaluation.prompts=8", "evaluation.reward_examples=0", "evaluation.kl_prompts=0"],
    "report": [],
}
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TAUGHT = {"a loss", "an optimiser", "a feedback source", "a metric", "a study"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("contributing")
    shown = dict(re.findall(r"^    (my\S+) +(\w+ .+?)  ", PAGE, re.M))
    assert set(shown.values()) == TAUGHT
    assert set(paste_files(PAGE, folder)) >= {*shown, *re.findall(r"test_my_\w+\.py", PAGE)}
    return folder


def test_the_tests_of_the_page_pass(folder: Path) -> None:
    (line,) = [line for line in shell_lines(PAGE) if "pytest" in line]
    assert re.search(rf"{len(TAUGHT)} passed", paste(line, folder))


def test_each_is_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for line in (line for line in shell_lines(PAGE) if " kto-lab " in line):
        words = shlex.split(line.removeprefix("PYTHONPATH=. kto-lab "))
        run_command([*words, *SMALL[words[0]]], monkeypatch)
    assert record("loss")["training"]["loss"] == "least_squares"
    assert record("optimizer")["config"]["optimizer"]["_target_"] == "torch.optim.NAdam"
    assert sum(split["examples"] for split in record("feedback")["data"]["counts"].values()) == 10
    assert record("metric")["metrics"]["answers"]["exclamations"]["trained"]["n"] > 0
    report = Path("runs/studies/slope")
    cells = json.loads((report / "study.json").read_text())["cells"]
    assert len(cells) == 4 and (report / "report.html").is_file() and (report / "tables" / "pass_rate.md").is_file()


def record(run: str) -> dict[str, Any]:
    return json.loads(Path("runs", run, "record.json").read_text())
