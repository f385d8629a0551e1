"""The identities of a study's cells: composed once, and again where anything that they are made of has changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from kto_lab.cli import config_dir
from kto_lab.errors import LabError
from kto_lab.messages import explain
from kto_lab.sealed import write_json
from kto_lab.sweeps.composing import Composer, opened
from kto_lab.sweeps.finished import FinishedRuns
from kto_lab.sweeps.manifest import STUDY
from kto_lab.sweeps.study import Cell, cells_of
from kto_lab.sweeps.sweep import named, study_of
from tests.damage import DAMAGES
from tests.small_runs import thumbs, write_jsonl
from tests.sweeps.ground import OWN, Ground


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    ground = Ground(tmp_path)
    ground.plan()
    return ground


def planned(ground: Ground) -> tuple[list[str], int]:
    """The identities of a later sweep, and how many of them it had to compose."""
    composed = []
    with ground.composer() as composer, pytest.MonkeyPatch.context() as patch:
        compose = composer.compose

        def counted(cell: Cell) -> Any:
            composed.append(cell)
            return compose(cell)

        patch.setattr(composer, "compose", counted)
        return [composer.plan(cell).run_id for cell in ground.cells], len(composed)


def test_what_is_kept_is_taken_again(ground: Ground) -> None:
    found, composed = planned(ground)
    assert composed == 0 and len(set(found)) == 2
    (ground.folder / "plan.json").unlink()
    assert planned(ground) == (found, 2)


def test_a_changed_configuration_is_composed_again(ground: Ground) -> None:
    before, _ = planned(ground)
    ground.loss("beta: 0.2")
    after, composed = planned(ground)
    assert composed == 2 and not set(after) & set(before)


def test_changed_feedback_is_composed_again(ground: Ground) -> None:
    before, _ = planned(ground)
    write_jsonl(ground.thumbs, thumbs(28))
    after, composed = planned(ground)
    assert composed == 2 and not set(after) & set(before)


def test_what_reads_the_environment_is_never_kept(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_BETA", "0.3")
    ground.loss("beta: ${oc.decode:${oc.env:OWN_BETA}}")
    before, composed = planned(ground)
    assert composed == 2
    ground.plan()
    monkeypatch.setenv("OWN_BETA", "0.4")
    after, composed = planned(ground)
    assert composed == 2 and not set(after) & set(before)


def test_a_wrong_value_is_said_where_cells_are_composed_rather_than_in_each(ground: Ground) -> None:
    ground.loss("beta: abc")
    with pytest.raises(
        LabError, match=r"(?s)^model=tiny .*\nloss\.reward_beta is 'abc'; it must be a number or null\.$"
    ):
        ground.plan()


@pytest.mark.parametrize("text", ["", "[1]", '{"key": 3}', json.dumps({"key": {"run_id": "abc"}})])
def test_damage_to_what_is_kept_costs_time_alone(ground: Ground, text: str) -> None:
    before, _ = planned(ground)
    (ground.folder / "plan.json").write_text(text)
    assert planned(ground) == (before, 2)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_set_aside_and_made_again(
    ground: Ground, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _ = planned(ground)
    DAMAGES[damage](ground.folder / "plan.json")
    assert planned(ground) == (before, 2)
    assert capsys.readouterr().out.count("plan.json is damaged") == 1
    ground.plan()
    assert planned(ground) == (before, 0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_study_is_set_aside_and_its_contrasts_count_as_named_now(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contrast = {"name": "kto over dpo", "metric": "pass_rate"}
    study = {"name": "small", "question": "Which one is better? " * 10}
    content = {"study": study, "cells": [], "contrasts_named": [{"contrast": contrast, "finished": 7}]}
    write_json(tmp_path / STUDY, content)
    assert named([contrast], [], tmp_path) == [{"contrast": contrast, "finished": 7}]
    DAMAGES[damage](tmp_path / STUDY)
    assert named([contrast], [], tmp_path) == [{"contrast": contrast, "finished": 0}]
    assert capsys.readouterr().out.count("study.json is damaged") == 1
    assert (tmp_path / f"{STUDY}.damaged").exists()


@pytest.mark.parametrize("study", sorted(file.stem for file in (config_dir() / "study").glob("*.yaml")))
def test_a_cell_is_composed_as_by_hydra_alone(study: str, tmp_path: Path) -> None:
    own = [f"study={study}", *OWN]
    with opened(config_dir(), own) as (loader, config):
        composer = Composer(loader, config, own=own, kept=tmp_path / "plan.json", finished=FinishedRuns(tmp_path))
        cells = cells_of(study_of(config.study), ["+evaluation.extra={a: 1}", "~lengths.overlong_prompt"])
        # The first two share their options; the last has others.
        for cell in (cells[0], cells[1], cells[-1]):
            whole = loader.load_sweep_config(config, list(cell.overrides))
            alone = OmegaConf.masked_copy(whole, [str(key) for key in whole if key not in ("study", "hydra")])
            found = composer.compose(cell)
            assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(alone)
            # By default it is named for the second in which it is resolved: not always the same for both.
            found.run_dir = alone.run_dir = "runs/one"
            assert OmegaConf.to_yaml(found, resolve=True) == OmegaConf.to_yaml(alone, resolve=True)


def test_a_mistake_is_said_as_by_hydra_alone(ground: Ground) -> None:
    with ground.composer() as composer:
        for word in ("loss.betta=1", "losss=kto", "loss=ktoo", "seed@x=1", "~qqq", "lengths.max_length.x=1"):
            cell = Cell({}, (*ground.cells[0].overrides, word))
            with pytest.raises(HydraException) as alone:
                composer.loader.load_sweep_config(composer.config, list(cell.overrides))
            with pytest.raises(type(alone.value)) as found:
                composer.compose(cell)
            assert explain(found.value) == explain(alone.value)
