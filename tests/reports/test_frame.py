import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kto_lab.errors import LabError
from kto_lab.files import write_json
from kto_lab.reports import load
from kto_lab.reports.comparisons import OVER_PROMPTS, OVER_SEEDS_AND_PROMPTS
from kto_lab.reports.frame import choices, grouped, measured, plain, rows_of
from kto_lab.runs.record import read_record
from kto_lab.runs.scores import prompt_scores, scores_in
from tests.reports.study_folders import PROMPTS, SEEDS, by_rate, draw, fail, grid, record, write_run, write_study

RATES = {"kto": 0.7, "dpo": 0.5}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path, grid(arm=["kto", "dpo"], corruption__rate=[0, 0.2]), by_rate(RATES))


def test_a_row_a_cell_with_choices_first_and_numbers_from_the_records(study: Path) -> None:
    frame = load(study)
    assert len(frame) == 12
    assert list(frame.columns[:3]) == ["arm", "corruption.rate", "seed"]
    assert choices(frame) == ["arm", "corruption.rate"]
    assert set(frame["status"]) == {"done"}
    cell = frame[(frame["arm"] == "dpo") & (frame["corruption.rate"] == 0.2) & (frame["seed"] == 1)].iloc[0]
    found = json.loads((study / cell["folder"] / "record.json").read_text())
    rate = found["metrics"]["answers"]["pass_rate"]
    assert cell["pass_rate"] == rate["trained"]["value"] == pytest.approx(sum(draw(0.4, 1)) / PROMPTS)
    assert cell["pass_rate_high"] == rate["trained"]["high"]
    assert cell["pass_rate_n"] == PROMPTS
    assert cell["pass_rate_base"] == rate["base"]["value"]
    assert cell["pass_rate_difference_low"] == rate["difference"]["low"]
    assert cell["pass_rate_detectable"] == rate["detectable"]
    assert cell["reward_accuracy"] == found["metrics"]["rewards"]["reward_accuracy"]["value"]
    assert cell["kl_low"] == found["metrics"]["kl"]["low"]
    assert cell["groups.title.pass_rate"] == found["metrics"]["groups"]["title"]["pass_rate"]["trained"]["value"]
    tasks = found["metrics"]["lm_eval"]
    assert cell["kto_lab_checks.pass_rate"] == tasks["trained"]["kto_lab_checks"]["pass_rate"]["value"]
    assert cell["kto_lab_checks.pass_rate_base_n"] == tasks["base"]["kto_lab_checks"]["pass_rate"]["n"]


def test_costs_and_everything_else_of_a_record_is_there(study: Path) -> None:
    cell, found = load(study).iloc[0], record(0, scores=[1.0])
    assert cell["seconds"] == pytest.approx(sum(found["timings"].values()))
    assert cell["seconds.training"] == found["timings"]["training"]
    assert (cell["examples_seen"], cell["tokens_seen"], cell["steps"]) == (400, 30828, 25)
    assert cell["peak_memory"] == found["peak_memory"]["process"]
    assert cell["data.counts.train.desirable"] == 154
    assert cell["config.optimization.learning_rate"] == 5e-5
    assert cell["environment.packages.torch"] == "2.13.0+cpu"
    # Nothing is dropped: as many columns as the record has leaves, but for its status and run_id.
    frame = load(study)
    own = [name for name in frame.columns[frame.columns.get_loc("folder") + 1 :] if name != "seconds"]
    assert len(own) == sum(1 for _ in leaves(read_record(study / cell["folder"]))) - 2


def leaves(node: Any) -> Any:
    if isinstance(node, dict) and node:
        for value in node.values():
            yield from leaves(value)
    else:
        yield node


def test_a_choice_named_like_a_column_keeps_its_name(tmp_path: Path) -> None:
    cells = [{"loss": "sft", "steps": 7, "seed": 0}]
    frame = load(write_study(tmp_path, cells, lambda folder, _: write_run(folder, 0, [1.0, 0.0])))
    assert (frame["loss"][0], frame["steps"][0]) == ("sft", 7)
    assert (frame["training.loss"][0], frame["training.steps"][0]) == ("kto", 25)


def test_what_became_of_a_cell_is_told(tmp_path: Path) -> None:
    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        if cell["seed"] == 0:
            fail(folder, "The disk is full.")
        elif cell["seed"] == 1:
            (folder / "record.json").write_text('{"schema": 1')
        elif cell["seed"] == 2:
            write_json(folder / "record.json", {"schema": 99})
        elif cell["seed"] == 3:
            write_json(folder / "record.json", {"schema": 1})
        elif cell["seed"] == 4:
            write_run(folder, 4, draw(0.5, 4))
        elif cell["seed"] == 5:
            (folder / "failure.json").write_text("{")

    frame = load(write_study(tmp_path, grid(range(7), arm=["kto"]), run)).set_index("seed")
    states = ["failed", "unreadable", "unreadable", "unreadable", "done", "failed", "missing"]
    assert frame["status"].tolist() == states
    assert frame["message"][0] == "The disk is full."
    assert "record.json is damaged" in frame["message"][1] and "schema 99" in frame["message"][2]
    assert "KeyError" in frame["message"][3] and "failure.json is damaged" in frame["message"][5]
    assert frame["message"][[4, 6]].isna().all()
    assert frame["pass_rate"].notna().tolist() == [state == "done" for state in states]


def test_a_kept_record_file_stands_for_its_run(tmp_path: Path) -> None:
    write_json(tmp_path / "runs" / "a.json", record(5, scores=[1.0, 0.0]))
    cells = [{"choices": {"arm": "kto"}, "run_id": "a", "folder": "runs/a.json"}]
    write_json(tmp_path / "study.json", {"study": {"name": "kept"}, "cells": cells})
    frame = load(tmp_path)
    assert (frame["status"][0], frame["seed"][0], frame["pass_rate"][0]) == ("done", 5, 0.5)
    assert prompt_scores(tmp_path / "runs" / "a.json", "pass_rate") is None


def test_arms_may_have_choices_of_their_own(tmp_path: Path) -> None:
    cells = [*grid(arm=["kto"], loss__beta=[0.1, 0.2]), *grid(arm=["sft"])]
    frame = load(write_study(tmp_path, cells, lambda folder, cell: write_run(folder, cell["seed"], [1.0, 0.0])))
    assert list(grouped(frame, ["arm", "loss.beta"], "x")) == [("kto", 0.1), ("kto", 0.2), ("sft", None)]


def test_a_folder_without_a_study_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no study at .*kto-lab sweep"):
        load(tmp_path)
    for broken in ("{", '{"study": {"name": "x"}}', '{"study": {}, "cells": []}', "[]"):
        (tmp_path / "study.json").write_text(broken)
        with pytest.raises(LabError, match=r"study\.json (is damaged|cannot be read as a study)"):
            load(tmp_path)


def test_nothing_is_averaged_over_but_seeds(study: Path) -> None:
    frame = load(study)
    with pytest.raises(LabError, match=r"table t: cells with arm=kto also differ by corruption.rate"):
        grouped(frame, ["arm"], "table t")
    with pytest.raises(LabError, match=r"'lambda' is no choice.*arm, corruption.rate"):
        grouped(frame, ["lambda"], "table t")
    parts = grouped(frame, ["corruption.rate", "arm"], "table t")
    assert list(parts) == [(0.0, "kto"), (0.2, "kto"), (0.0, "dpo"), (0.2, "dpo")]
    assert all(part["seed"] == list(SEEDS) for part in parts.values())


def test_a_group_has_its_mean_its_scores_and_what_is_lacking(tmp_path: Path) -> None:
    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        write_run(folder, cell["seed"], draw(0.5, cell["seed"])) if cell["seed"] < 2 else fail(folder)

    home = write_study(tmp_path, grid(range(4), arm=["kto"]), run)
    group = measured(rows_of(load(home)), "pass_rate", scores_in(home), "x")
    assert (group.planned, group.others, group.prompts) == (4, {"failed": 2}, (PROMPTS, PROMPTS))
    assert group.mean.interval == OVER_SEEDS_AND_PROMPTS
    scores = group.outcomes[1].scores
    assert scores is not None
    assert scores == {f"p{place}": score for place, score in enumerate(draw(0.5, 1))}
    assert measured(rows_of(load(home).iloc[[0, 3]]), "pass_rate", None, "x").mean.interval == OVER_PROMPTS
    assert measured(rows_of(load(home)), "no_such", None, "x").others == {"not measured": 2, "failed": 2}
    with pytest.raises(LabError, match=r"config\.loss\.function is no metric"):
        measured(rows_of(load(home)), "config.loss.function", None, "x")


def test_values_of_a_frame_are_pythons_own() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["x", None]})
    assert [plain(value) for value in frame.iloc[1]] == [2, None, None]
    assert plain([1, 2]) == "[1, 2]"


def test_a_study_is_loaded_without_torch(study: Path) -> None:
    modules = "frame, figures, specs, table_formats, tables, comparisons, report, selection"
    code = [f"from kto_lab.reports import {modules}, load", f"load({str(study)!r})", "import sys"]
    words = [sys.executable, "-c", "\n".join([*code, "assert 'torch' not in sys.modules"])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
