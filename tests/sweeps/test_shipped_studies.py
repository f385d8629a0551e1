"""The studies of conf/study: each composes at each size of machine, and its tables and figures fit its cells."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from kto_lab import cli
from kto_lab.configuration import check_keys
from kto_lab.keys import TRAIN
from kto_lab.reports.specs import FigureSpec, TableSpec, parse
from kto_lab.sweeps.contrasts import read_contrasts
from kto_lab.sweeps.request import read
from kto_lab.sweeps.study import ARM, Cell, Study, cells_of
from kto_lab.sweeps.sweep import study_of
from tests.small_runs import options

ROOT = Path(__file__).resolve().parents[2]
SCALES = options("scale")
# What tables and figures show at every scale, and what a scale shows in its place.
METRICS = {"pass_rate", "pair_accuracy", "reward_auc", "reward_accuracy", "kl", "answer_length", "sentiment"}


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        yield


def study(name: str) -> Study:
    return study_of(compose("train", [f"study={name}"]).study)


def one_of_each_arm(cells: list[Cell]) -> list[Cell]:
    return list({cell.choices[ARM]: cell for cell in cells}.values())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("study"))
def test_every_arm_composes_at_every_scale(name: str, scale: str) -> None:
    for cell in one_of_each_arm(cells_of(study(name), [f"scale={scale}"])):
        cfg = compose("train", list(cell.overrides))
        assert isinstance(cfg, DictConfig)
        check_keys(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "study"]), TRAIN)
        # Interpolations, as of a rate that a loss is told, meet their keys.
        assert OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("name", options("study"))
def test_tables_and_figures_name_choices_and_metrics(name: str) -> None:
    shipped = study(name)
    varied = {key for cell in cells_of(shipped, ["scale=tiny"]) for key in cell.choices} - {"seed"}
    for node in shipped.tables:
        table = parse(node, TableSpec)
        assert {*table.rows, *([table.columns] if table.columns else []), *(table.where or {})} <= varied
        assert set(table.metrics) <= METRICS and table.baseline and table.caption.endswith(".")
    for node in shipped.figures:
        figure = parse(node, FigureSpec)
        assert figure.y in METRICS and figure.x in (METRICS if figure.kind == "frontier" else varied)
        assert figure.line in varied
    for one in read_contrasts(shipped.contrasts, name):
        assert one.metric in METRICS
    assert shipped.contrasts, "a study says what would answer its question"
    assert shipped.name == name and shipped.question.endswith("?")


def test_the_head_to_head_gives_each_method_as_many_settings() -> None:
    for scale in SCALES:
        cells = cells_of(study("kto_vs_dpo_vs_sft"), [f"scale={scale}", "seed=0"])
        counts: dict[Any, int] = {}
        for cell in cells:
            counts[cell.choices[ARM]] = counts.get(cell.choices[ARM], 0) + 1
        assert counts == {"kto": 16, "dpo": 16, "sft": 16}


def test_loss_aversion_covers_seven_ratios_and_every_value_function() -> None:
    shipped = study("loss_aversion")
    assert list(shipped.arms) == ["logistic", "concave", "identity", "power"]
    assert set(options("value")) == set(shipped.arms)
    ratios = {cell.choices["loss.weighting.target"] for cell in cells_of(shipped, [])}
    assert len(ratios) == 7 and min(ratios) == 0.25 and max(ratios) == 4


def commands() -> list[str]:
    """What the README and the pages of the guide tell a person to sweep."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    lines = [line.strip() for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    return sorted({line for line in lines if line.startswith("kto-lab sweep study=")})


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_composes_in_every_arm(command: str) -> None:
    asked = read(shlex.split(command, comments=True)[2:])
    name = next(word.removeprefix("study=") for word in asked.own if word.startswith("study="))
    # A search tries values; one of them is enough here.
    given = [re.sub(r"=tag\(.*\)$", "=1.0", word) for word in asked.given]
    for cell in one_of_each_arm(cells_of(study(name), given)):
        assert compose("train", list(cell.overrides))
