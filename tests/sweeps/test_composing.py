"""The identities of a study's cells: composed once, and again where anything that they are made of has changed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from kto_lab.cli import config_dir
from kto_lab.messages import explain
from kto_lab.sweeps.composing import Composer
from kto_lab.sweeps.study import Cell, cells_of
from kto_lab.sweeps.sweep import study_of
from tests.small_runs import SMALL, thumbs, write_jsonl

OWN = ["runs_dir=runs"]


class Ground:
    """A folder of configuration and a file of thumbs of one's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.thumbs = write_jsonl(folder / "thumbs.jsonl", thumbs())
        (folder / "conf" / "loss").mkdir(parents=True)
        self.loss("beta: 0.1")
        words = (*SMALL, f"feedback.path={self.thumbs}", "loss=mine")
        self.cells = [Cell({"seed": seed}, (*words, f"seed={seed}")) for seed in (0, 1)]

    def loss(self, *lines: str) -> None:
        text = "\n".join(["# Mine.", "defaults:", "  - sft", "  - _self_", *lines, ""])
        (self.folder / "conf" / "loss" / "mine.yaml").write_text(text.replace("beta", "reward_beta"))

    def composer(self) -> Composer:
        path = create_config_search_path(str(config_dir()))
        path.prepend("command-line", f"file://{self.folder / 'conf'}", SearchPathQuery(provider="schema"))
        GlobalHydra.instance().clear()
        hydra = Hydra.create_main_hydra2(task_name="kto-lab", config_search_path=path)
        config = hydra.compose_config("train", OWN, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        return Composer(hydra, config, own=OWN, runs=Path("runs"), kept=self.folder / "plan.json")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path)
    composer = ground.composer()
    for cell in ground.cells:
        composer.plan(cell)
    composer.keep()
    yield ground
    GlobalHydra.instance().clear()


def planned(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], int]:
    """The identities of a later sweep, and how many of them it had to compose."""
    composer, composed = ground.composer(), []
    compose = composer.compose

    def counted(cell: Cell) -> Any:
        composed.append(cell)
        return compose(cell)

    monkeypatch.setattr(composer, "compose", counted)
    return [composer.plan(cell).run_id for cell in ground.cells], len(composed)


def test_what_is_kept_is_taken_again(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    found, composed = planned(ground, monkeypatch)
    assert composed == 0 and len(set(found)) == 2
    (ground.folder / "plan.json").unlink()
    assert planned(ground, monkeypatch) == (found, 2)


def test_a_changed_configuration_is_composed_again(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = planned(ground, monkeypatch)
    ground.loss("beta: 0.2")
    after, composed = planned(ground, monkeypatch)
    assert composed == 2 and not set(after) & set(before)


def test_changed_feedback_is_composed_again(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = planned(ground, monkeypatch)
    write_jsonl(ground.thumbs, thumbs(28))
    after, composed = planned(ground, monkeypatch)
    assert composed == 2 and not set(after) & set(before)


def test_what_reads_the_environment_is_never_kept(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_BETA", "0.3")
    ground.loss("beta: ${oc.env:OWN_BETA}")
    before, composed = planned(ground, monkeypatch)
    assert composed == 2
    ground.composer().keep()
    monkeypatch.setenv("OWN_BETA", "0.4")
    after, composed = planned(ground, monkeypatch)
    assert composed == 2 and not set(after) & set(before)


@pytest.mark.parametrize("text", ["", "[1]", '{"key": 3}', json.dumps({"key": {"run_id": "abc"}})])
def test_damage_to_what_is_kept_costs_time_alone(ground: Ground, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    before, _ = planned(ground, monkeypatch)
    (ground.folder / "plan.json").write_text(text)
    assert planned(ground, monkeypatch) == (before, 2)


@pytest.mark.parametrize("study", sorted(file.stem for file in (config_dir() / "study").glob("*.yaml")))
def test_a_cell_is_composed_as_by_hydra_alone(study: str, tmp_path: Path) -> None:
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("kto-lab", create_config_search_path(str(config_dir())))
    own = [f"study={study}", *OWN]
    config = hydra.compose_config("train", own, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    composer = Composer(hydra, config, own=own, runs=Path("runs"), kept=tmp_path / "plan.json")
    cells = cells_of(study_of(config.study), ["+evaluation.extra={a: 1}", "~lengths.overlong_prompt"])
    # The first two share their options; the last has others.
    for cell in (cells[0], cells[1], cells[-1]):
        whole = hydra.config_loader.load_sweep_config(config, list(cell.overrides))
        alone = OmegaConf.masked_copy(whole, [str(key) for key in whole if key not in ("study", "hydra")])
        found = composer.compose(cell)
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(alone)
        # By default it is named for the second in which it is resolved: not always the same for both.
        found.run_dir = alone.run_dir = "runs/one"
        assert OmegaConf.to_yaml(found, resolve=True) == OmegaConf.to_yaml(alone, resolve=True)
    GlobalHydra.instance().clear()


def test_a_mistake_is_said_as_by_hydra_alone(ground: Ground) -> None:
    composer = ground.composer()
    for word in ("loss.betta=1", "losss=kto", "loss=ktoo", "seed@x=1", "~qqq", "lengths.max_length.x=1"):
        cell = Cell({}, (*ground.cells[0].overrides, word))
        with pytest.raises(HydraException) as alone:
            composer.hydra.config_loader.load_sweep_config(composer.config, list(cell.overrides))
        with pytest.raises(type(alone.value)) as found:
            composer.compose(cell)
        assert explain(found.value) == explain(alone.value)
