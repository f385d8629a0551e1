"""A metric of a user's own: one declaration in a module of theirs, and everything that shows metrics has it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.errors import InstantiationException

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import DECLARED, higher_is_better, label
from kto_lab.files import write_json
from kto_lab.reports import load
from kto_lab.runs.evaluate import evaluate
from kto_lab.runs.record import RECORD, read_record
from kto_lab.runs.scores import prompt_scores
from kto_lab.runs.train import assemble
from tests.small_runs import composed, configuration, metrics, run

MODULE = """
import numpy as np
from kto_lab.evaluation.measuring import Metric

def count(results):
    return {answer.prompt_id: len(answer.answer) for answer in results.answers}

def liked(results):
    rewarded = np.sign(results.rewards) == np.where(results.desirable, 1, -1)
    return dict(zip(results.prompt_ids, rewarded, strict=True))

CHARACTERS = Metric("characters", label="length", unit="characters", better="down", measure=count)
LIKED = Metric("liked", better="up", bounds=(0.0, 1.0), measure=liked)
BROKEN = Metric("broken", measure=lambda results: {"nobody": 1.0})
"""
EVALUATED = ["evaluation.prompts=6", "evaluation.max_new_tokens=4", "evaluation.reward_examples=12"]
NAMED = "evaluation.metrics=[my_own_metrics.CHARACTERS,my_own_metrics.LIKED]"

pytestmark = pytest.mark.usefixtures("nothing_learned")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the user's module, on the path."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_own_metrics.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    sys.modules.pop("my_own_metrics", None)


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    return run(home, "optimization.max_steps=3", *EVALUATED, NAMED)


def test_the_record_has_its_numbers_and_its_declaration(finished: Path) -> None:
    record = read_record(finished)
    assert record["declared"] == {
        "characters": {"label": "length", "unit": "characters", "better": "down"},
        "liked": {"better": "up", "bounds": [0.0, 1.0]},
    }
    found = record["metrics"]["answers"]
    trained = json.loads((finished / "evaluation" / "trained.json").read_text())["answers"]
    mean = sum(len(answer["answer"]) for answer in trained) / 6
    assert found["characters"]["trained"]["value"] == pytest.approx(mean)
    # Before training no reward has a sign, and afterwards some have; yes and no have the interval of a share.
    assert found["liked"]["base"]["value"] == 0 and found["liked"]["trained"]["value"] > 0
    assert found["liked"]["base"]["low"] == 0 and found["liked"]["base"]["high"] < 1
    assert all("characters" in group for group in record["metrics"]["groups"].values())


def test_every_column_of_the_steps_is_declared(finished: Path) -> None:
    (first, *_) = metrics(finished)
    assert first.keys() - {"step"} <= DECLARED.keys()


def test_its_code_is_a_part_of_the_run_and_labels_are_not(finished: Path) -> None:
    code = read_record(finished)["identity"]["code"]
    assert {"my_own_metrics", "kto_lab.evaluation.measuring"} <= code.keys()
    assert "kto_lab.evaluation.metrics" not in code


def test_every_prompt_has_a_score(finished: Path) -> None:
    trained = json.loads((finished / "evaluation" / "trained.json").read_text())["answers"]
    lengths = {answer["prompt_id"]: float(len(answer["answer"])) for answer in trained}
    assert prompt_scores(finished, "characters") == lengths
    assert prompt_scores(finished, "liked") is not None and prompt_scores(finished, "kl") is None


def test_a_report_reads_it_where_the_module_is_not(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / RECORD).write_bytes((finished / RECORD).read_bytes())
    cell = {"choices": {"arm": "kto"}, "run_id": "cell", "folder": "cell"}
    study = {"name": "own", "question": "", "tables": [], "figures": []}
    write_json(tmp_path / "study.json", {"study": study, "cells": [cell], "command": ""})
    frame = load(tmp_path)
    assert {"characters", "characters_base", "characters_difference_low", "liked"} <= set(frame.columns)
    assert not any("declared" in str(column) for column in frame.columns)
    assert label("characters_base") == "length, characters, base" and higher_is_better("characters") is False


def test_the_table_of_the_run_shows_it(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=tiny", "model.weights=random", "trainer=cpu", "evaluation=none", *EVALUATED, NAMED]
    words += ["feedback=file", f"feedback.path={home / 'thumbs.jsonl'}", "feedback.columns.split=split"]
    target = evaluate(composed([*words, f"output={tmp_path / 'alone.json'}"], name="evaluate"))
    shown = capsys.readouterr().out
    assert "characters" in shown and "liked" not in shown
    record = json.loads(target.read_text())
    # One model alone has no rewards.
    assert record["metrics"]["answers"].keys() == {"answer_length", "finished", "characters"}


def test_a_function_that_goes_wrong_shows_before_training(home: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="metric broken scores 'nobody'"):
        run(tmp_path, *EVALUATED, "evaluation.metrics=[my_own_metrics.BROKEN]")
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluation.prompts=1", "evaluation.metrics=my_own_metrics.LIKED"], "evaluation.metrics is .*must be a list"),
        (["evaluation.prompts=1", "evaluation.metrics=[my_own_metrics.NONE]"], "cannot be imported"),
        (["evaluation.metrics=[my_own_metrics.LIKED]"], "evaluation.prompts and evaluation.reward_examples are 0"),
    ],
)
def test_a_setting_that_cannot_be_is_an_error_before_anything_is_loaded(
    home: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises((LabError, InstantiationException), match=message):
        assemble(configuration(tmp_path, *words))
