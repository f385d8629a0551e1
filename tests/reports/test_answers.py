from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.files import write_json
from kto_lab.reports import load
from kto_lab.reports.answers import MOST, SideBySide, side_by_side
from kto_lab.reports.report import publish, report
from tests.reports.study_folders import grid, write_run, write_study

PROMPTS = 12
TABLE = {"name": "rates", "rows": ["arm"], "metrics": ["pass_rate"], "where": {"corruption.rate": 0.4}}


def answer(prompt: int, text: str, score: float | None) -> dict[str, Any]:
    known = {"prompt_id": f"p{prompt}", "prompt": f"question {prompt}?", "n_tokens": 3, "finished": True}
    return known | {"answer": text, "scores": {} if score is None else {"pass_rate": score}, "group": "g"}


def run(folder: Path, cell: Mapping[str, Any]) -> None:
    """KTO passes everywhere, DPO fails on two prompts where there is noise; the base policy answers alike."""
    failed = (3, 7) if cell["arm"] == "dpo" and cell["corruption.rate"] else ()
    scores = [float(prompt not in failed) for prompt in range(PROMPTS)]
    write_run(folder, cell["seed"], scores)
    rows = [
        answer(prompt, f"{cell['arm']} <b>{prompt}</b>" if prompt % 2 else "the same", score)
        for prompt, score in enumerate(scores)
    ]
    write_json(folder / "evaluation" / "trained.json", {"answers": rows, "logps": [], "lm_eval": {}})
    base = [answer(prompt, "the same", 0.0) for prompt in range(PROMPTS)]
    write_json(folder / "evaluation" / "base.json", {"answers": base, "logps": [], "lm_eval": {}})


def study(folder: Path, **more: Any) -> Path:
    return write_study(folder, grid((1, 0), arm=["kto", "dpo"], corruption__rate=[0, 0.4]), run, **more)


def shown(home: Path) -> SideBySide | None:
    return side_by_side(load(home), "arm", (), "pass_rate", home)


def test_the_largest_differences_come_first_and_what_is_the_same_is_left_out(tmp_path: Path) -> None:
    found = shown(study(tmp_path))
    assert found is not None
    assert (found.cells, found.score, found.prompts) == ("corruption rate 0.4, seed 0", "pass rate", PROMPTS)
    assert [row.prompt for row in found.rows] == [f"question {prompt}?" for prompt in (3, 7, 1, 5, 9, 11)]
    assert [(one.policy, one.text, one.score) for one in found.rows[0].answers] == [
        (None, "the same", 0.0),
        ("kto", "kto <b>3</b>", 1.0),
        ("dpo", "dpo <b>3</b>", 0.0),
    ]
    assert len(found.rows) <= MOST


def test_the_page_has_them_escaped_and_a_published_study_says_nothing(tmp_path: Path) -> None:
    home = study(tmp_path / "runs", tables=[TABLE])
    text = report(home).read_text()
    part = text.partition("<h2>Answers</h2>")[2].partition("<h2>")[0]
    assert part.index("question 3?") < part.index("question 1?")
    assert "kto &lt;b&gt;3&lt;/b&gt;" in part and "base policy" in part and "with corruption rate 0.4, seed 0" in part
    assert "Answers</h2>" not in publish(home, tmp_path / "published").read_text()


def test_answers_that_nothing_scored_or_a_judge_did(tmp_path: Path) -> None:
    home = study(tmp_path)
    for place, cell in enumerate(sorted((tmp_path / "cells").iterdir())):
        file = cell / "evaluation" / "trained.json"
        judged = answer(1, f"text {place}", None) | {"scores": {"judge_score": place / 8}}
        rows = [answer(0, f"text {place}", None), judged]
        write_json(file, {"answers": rows[:1]})
    unscored = shown(home)
    assert unscored is not None and unscored.score == "" and unscored.rows[0].spread == 0
    for cell in (tmp_path / "cells").iterdir():
        write_json(cell / "evaluation" / "trained.json", {"answers": [{"prompt_id": "p0"}]})
    with pytest.raises(LabError, match=r"trained\.json is damaged.*Remove it, and the report goes without"):
        shown(home)
