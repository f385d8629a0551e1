"""What a sweep tells Weights & Biases: offline runs of its cells and of its report, read back."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from kto_lab.errors import LabError
from kto_lab.reports.wandb_study import log_study
from kto_lab.sweeps.study import Cell
from kto_lab.sweeps.wandb_names import WANDB, naming
from kto_lab.training.loggers import LONGEST_TAG, Wandb
from tests.reports.study_folders import by_rate, fail, grid, write_study
from tests.runs.wandb_files import about, history, merged, offline_runs, tables
from tests.small_runs import SMALL, composed, instead, thumbs, write_jsonl

RATES = {"dpo": 0.3, "kto": 0.8}
TABLE = {"name": "rates", "rows": ["arm"], "metrics": ["pass_rate"], "baseline": {"arm": "dpo"}}
FIGURE = {"name": "frontier", "kind": "frontier", "x": "kl", "y": "pass_rate"}
CELL = Cell({"arm": "kto", "corruption.rate": 0.2, "seed": 1}, ("scale=tiny", "loss=kto", "seed=1"))
STUDY = """# A study for the tests.
name: told
question: Is it told?
arms: {kto: [loss=kto], sft: [loss=sft, loss.reward_beta=0.1]}
grid: {corruption.rate: "0.2"}
overrides: [corruption=label_noise]
seeds: [0]
tables: [{name: kl, rows: [arm], metrics: [kl]}]
"""


def logger(*words: str) -> DictConfig:
    node = composed(["logger=wandb", *words]).logger
    assert isinstance(node, DictConfig)
    return node


def told(node: DictConfig, study: str = "noise", cell: Cell = CELL) -> dict[str, Any]:
    """The values of the overrides that name a cell, by key, as Hydra reads them."""
    words = naming(node, study=study, cell=cell, name=f"arm={cell.choices['arm']} seed=1")
    return {one.key_or_group: one.value() for one in OverridesParser.create().parse_overrides(words)}


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))


def test_a_cell_is_named_by_its_choices_within_its_study() -> None:
    assert told(logger()) == {
        "logger.group": "noise",
        "logger.name": "arm=kto seed=1",
        "logger.tags": ["noise", "kto", "tiny"],
    }


def test_what_is_set_already_stays() -> None:
    mine = logger("logger.group=mine", "logger.tags=[a]", "logger.name=one")
    assert told(mine) == {}
    assert list(told(logger("logger.group=mine"))) == ["logger.name", "logger.tags"]


def test_a_variable_of_wandb_s_own_stands_in_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_RUN_GROUP", "WANDB_TAGS", "WANDB_NAME"):
        monkeypatch.setenv(variable, "theirs")
    # One name for all cells would tell none from another.
    assert list(told(logger())) == ["logger.name"]


def test_another_logger_is_told_nothing(tmp_path: Path) -> None:
    csv = composed([]).logger
    assert told(csv) == {}
    log_study(csv, tmp_path / "no study is looked for")
    assert f"{Wandb.__module__}.{Wandb.__qualname__}" == WANDB


@pytest.mark.parametrize("arm", ["it's", "back\\", "a\\'b", "[x, {y: 1}]", "two words", "a=b"])
def test_any_name_of_an_arm_reaches_wandb_as_it_is(arm: str) -> None:
    found = told(logger(), cell=Cell({"arm": arm, "seed": 1}, ()))
    assert found["logger.tags"] == ["noise", arm] and found["logger.name"] == f"arm={arm} seed=1"


def test_a_long_name_is_cut_to_a_tag_that_wandb_takes() -> None:
    assert told(logger(), study="s" * 100)["logger.tags"][0] == "s" * LONGEST_TAG


def test_the_report_is_one_run_that_a_repeated_sweep_goes_on_with(tmp_path: Path) -> None:
    home = write_study(tmp_path, grid(arm=list(RATES)), by_rate(RATES), tables=[TABLE], figures=[FIGURE])
    log_study(logger(), home)
    log_study(logger("logger.tags=[mine]"), home)
    first, second = offline_runs(home)
    assert about(first)["run_id"] == about(second)["run_id"] and about(second)["resume"]
    assert (about(first)["run_group"], about(first)["job_type"]) == ("noise", "report")
    assert (about(first)["tags"], about(second)["tags"]) == (["noise"], ["mine"])
    assert about(first)["config"]["update"]["question"] == "Does noise hurt?"
    summary = merged(second, "summary")
    assert (summary["cells/done"], summary["cells/failed"]) == (6, 0)
    (row,) = history(second)
    picture = next((home / "wandb").glob(f"offline-run-*/files/{row['figures/frontier.path']}"))
    assert picture.read_bytes() == (home / "figures" / "frontier.png").read_bytes()
    found = tables(home)
    kto = dict(zip(found["rates"]["columns"], found["rates"]["data"][1], strict=True))
    assert (kto["arm"], kto["seeds"], kto["baseline"]) == ("kto", 3, "arm=dpo")
    assert kto["low"] < kto["value"] < kto["high"] and kto["difference_low"] > 0
    assert found["cells"]["columns"] == ["arm", "seed", "status", "run_id"]
    assert found["cells"]["data"][0] == ["dpo", 0, "done", "0000"]


def test_what_a_search_tried_is_told_too(tmp_path: Path) -> None:
    cells = grid(arm=list(RATES), optimization__learning_rate=[1e-5, 1e-4])
    choose = {"over": ["optimization.learning_rate"], "by": "pass_rate"}
    home = write_study(tmp_path, cells, by_rate(RATES), tables=[{**TABLE, "choose": choose}])
    log_study(logger(), home)
    found = tables(home)
    assert {"rates", "rates_chosen", "budgets", "cells"} == found.keys()
    assert len(found["rates_chosen"]["data"]) > len(found["rates"]["data"]) == 3


def test_verdicts_and_budgets_are_told(tmp_path: Path) -> None:
    better = {"of": {"arm": "kto"}, "against": {"arm": "dpo"}, "metric": "pass_rate", "expect": "greater"}
    home = write_study(tmp_path, grid(arm=list(RATES)), by_rate(RATES), contrasts=[{"name": "better", **better}])
    log_study(logger(), home)
    found = tables(home)
    (row,) = (dict(zip(found["contrasts"]["columns"], one, strict=True)) for one in found["contrasts"]["data"])
    assert (row["contrast"], row["claim"]) == ("better", "pass rate: arm kto > arm dpo")
    assert row["verdict"].startswith("confirmed")
    assert [one[0] for one in found["budgets"]["data"]] == list(RATES)


def test_a_study_without_a_finished_cell_is_told_as_that(tmp_path: Path) -> None:
    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        if cell["seed"] == 0:
            fail(folder, "A path of this machine: /home/me")

    home = write_study(tmp_path, grid(arm=["dpo"]), run, tables=[TABLE], figures=[FIGURE])
    log_study(logger(), home)
    (records,) = offline_runs(home)
    summary = merged(records, "summary")
    assert [summary[f"cells/{state}"] for state in ("done", "failed", "missing")] == [0, 1, 2]
    assert not any(key.startswith("figures/") for key in history(records)[0])
    assert "/home/me" not in json.dumps([records, tables(home)])


def test_a_table_that_does_not_fit_is_said_and_leaves_no_run_open(tmp_path: Path) -> None:
    import wandb

    wrong = {**TABLE, "metrics": ["pas_rate"]}
    home = write_study(tmp_path, grid(arm=list(RATES)), by_rate(RATES), tables=[wrong])
    with pytest.raises(LabError, match="pas_rate"):
        log_study(logger(), home)
    assert wandb.run is None and not (home / "wandb").exists()


@pytest.mark.slow
def test_a_sweep_groups_its_cells_and_ends_with_the_report(tmp_path: Path) -> None:
    (tmp_path / "own" / "study").mkdir(parents=True)
    (tmp_path / "own" / "study" / "told.yaml").write_text(STUDY)
    file = write_jsonl(tmp_path / "thumbs.jsonl", thumbs())
    small = ["optimization.max_steps=2", "evaluation=quick", "evaluation.prompts=4", "evaluation.max_new_tokens=4"]
    words = [
        "study=told",
        "--config-dir",
        str(tmp_path / "own"),
        f"runs_dir={tmp_path / 'runs'}",
        *instead(SMALL, *small),
    ]
    words += [f"feedback.path={file}", "feedback.columns.split=split", "logger=wandb", "logger.project=mine"]
    done = subprocess.run(
        [sys.executable, "-m", "kto_lab.cli", "sweep", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    home = tmp_path / "runs" / "studies" / "told"
    cells = json.loads((home / "study.json").read_text())["cells"]
    for cell in cells:
        (records,) = offline_runs(home / cell["folder"])
        run, arm = about(records), cell["choices"]["arm"]
        # The names are not part of the identity: the run is the one that was planned.
        assert run["run_id"] == cell["run_id"]
        assert (run["project"], run["run_group"], run["job_type"]) == ("mine", "told", "train")
        assert (run["display_name"], run["tags"]) == (f"arm={arm} corruption.rate=0.2 seed=0", ["told", arm])
        assert [row["trainer/global_step"] for row in history(records) if "train/loss" in row] == [1, 2]
    (report,) = offline_runs(home)
    assert (about(report)["project"], about(report)["run_group"]) == ("mine", "told")
    assert merged(report, "summary")["cells/done"] == 2
    assert [row[0] for row in tables(home)["kl"]["data"]] == ["kto", "sft"]
