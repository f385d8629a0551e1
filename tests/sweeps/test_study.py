"""The cells of a study: arms, grid, seeds, and what the command line adds."""

from collections.abc import Sequence
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.sweeps.study import Cell, Study, cells_of, replaced_in_arms, shown_at


def study(**changes: Any) -> Study:
    parts: dict[str, Any] = {
        "name": "noise",
        "question": "What does noise do?",
        "arms": {"kto": ["loss=kto"], "dpo": ["loss=dpo", "loss.beta=0.1,0.2"]},
        "grid": {"corruption.rate": "0,0.2"},
        "seeds": [0, 1],
        "overrides": ["corruption=label_noise"],
    }
    return Study(**(parts | changes))


def choices(study: Study, *given: str) -> list[dict[str, Any]]:
    return [cell.choices for cell in cells_of(study, given)]


def test_cells_are_the_product_of_arms_grid_and_seeds() -> None:
    found = choices(study())
    assert len(found) == 2 * 2 + 2 * 2 * 2
    assert found[:3] == [
        {"arm": "kto", "corruption.rate": 0, "seed": 0},
        {"arm": "kto", "corruption.rate": 0, "seed": 1},
        {"arm": "kto", "corruption.rate": 0.2, "seed": 0},
    ]
    assert found[4] == {"arm": "dpo", "loss.beta": 0.1, "corruption.rate": 0, "seed": 0}


def test_overrides_apply_from_the_common_to_the_particular() -> None:
    (first, *_) = cells_of(study(), ["optimization.epochs=2"])
    assert first.overrides == (
        "corruption=label_noise",
        "loss=kto",
        "corruption.rate=0",
        "seed=0",
        "optimization.epochs=2",
    )


@pytest.mark.parametrize(
    ("given", "cells", "swept"),
    [
        (["seed=7"], 6, {}),
        (["seed=7,8,9"], 18, {}),
        (["corruption.rate=0.4"], 6, {}),
        (["corruption.rate=range(0,3)"], 18, {"corruption.rate": 0}),
        (["optimization.batch_size=8,16"], 24, {"optimization.batch_size": 8}),
    ],
)
def test_the_command_line_sweeps_and_fixes_in_its_turn(given: Sequence[str], cells: int, swept: dict[str, Any]) -> None:
    found = choices(study(), *given)
    assert len(found) == cells and swept.items() <= found[0].items()
    assert len({tuple(cell.items()) for cell in found}) == cells


def test_several_grids_are_run_one_after_the_other() -> None:
    sides = [{"keep_up": "1,0.5", "keep_down": "1"}, {"keep_up": "1", "keep_down": "0.5"}]
    found = choices(study(grid=sides, arms={"kto": ["loss=kto"]}, seeds=[0]))
    assert [(cell["keep_up"], cell["keep_down"]) for cell in found] == [(1, 1), (0.5, 1), (1, 0.5)]


def test_what_cannot_be_a_study_is_refused() -> None:
    for changes, words in [
        ({"arms": {}}, "at least one arm"),
        ({"seeds": []}, "at least one arm and one seed"),
        ({"seeds": [1, 1]}, "names the seed 1 twice"),
    ]:
        with pytest.raises(LabError, match=words):
            study(**changes)
    for given in ("loss.beta=interval(0,1)", "loss.beta=["):
        with pytest.raises(LabError):
            cells_of(study(), [given])


SCALES = {"tiny": {"overrides": ["optimization.learning_rate=2e-4"], "arms": {"kto": ["loss.beta=5"]}}}


@pytest.mark.parametrize("given", [["scale=tiny"], ["seed=0", "scale=tiny"]])
def test_a_scale_adds_what_suits_the_study_there(given: list[str]) -> None:
    cells = cells_of(study(scales=SCALES), given)
    assert all("optimization.learning_rate=0.0002" in cell.overrides for cell in cells)
    betas = {cell.choices["arm"]: [word for word in cell.overrides if "beta" in word] for cell in cells}
    assert betas == {"kto": ["loss.beta=5"], "dpo": ["loss.beta=0.2"]}
    assert not any("optimization.learning_rate=0.0002" in cell.overrides for cell in cells_of(study(scales=SCALES), []))


def test_the_command_line_has_the_last_word_on_a_scale() -> None:
    (first, *_) = cells_of(study(scales=SCALES), ["scale=tiny", "loss.beta=1"])
    assert "loss.beta=1" in first.overrides and "loss.beta=5" not in first.overrides


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"tiny": {"arm": {}}}, "scales.tiny .* has a key 'arm'"),
        ({"tiny": {"arms": {"kot": ["loss.beta=5"]}}}, "has an arm 'kot'. Arms are kto, dpo"),
    ],
)
def test_a_scale_that_does_not_fit_is_refused(scales: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        study(scales=scales)


def test_a_study_is_of_one_scale() -> None:
    with pytest.raises(LabError, match="scale takes one value"):
        cells_of(study(), ["scale=tiny,small"])


def test_a_scale_shows_other_metrics() -> None:
    node = {
        "tables": [{"name": "pass_rate", "metrics": ["pass_rate", "kl"], "choose": {"by": "pass_rate"}}],
        "figures": [{"name": "frontier", "x": "kl", "y": "pass_rate"}],
        "contrasts": [{"name": "pass_rate", "metric": "pass_rate"}],
        "scales": {"paper": {"metrics": {"pass_rate": "pair_accuracy"}}},
    }
    assert shown_at(node, "paper") == {
        "tables": [{"name": "pass_rate", "metrics": ["pair_accuracy", "kl"], "choose": {"by": "pair_accuracy"}}],
        "figures": [{"name": "frontier", "x": "kl", "y": "pair_accuracy"}],
        "contrasts": [{"name": "pass_rate", "metric": "pair_accuracy"}],
    }
    for scale in ("tiny", None):
        assert shown_at(node, scale) == {kind: node[kind] for kind in ("tables", "figures", "contrasts")}


OVER_THE_ARM = {"tiny": {"overrides": ["loss.beta=5", "optimization.epochs=2"]}}


def test_an_arm_s_own_sweep_holds_over_what_a_scale_gives_all_cells() -> None:
    cells = cells_of(study(scales=OVER_THE_ARM), ["scale=tiny", "seed=0", "corruption.rate=0"])
    betas = [(cell.choices["arm"], cell.choices.get("loss.beta"), *words(cell, "loss.beta")) for cell in cells]
    assert betas == [("kto", None, "loss.beta=5"), ("dpo", 0.1, "loss.beta=0.1"), ("dpo", 0.2, "loss.beta=0.2")]
    assert all("optimization.epochs=2" in cell.overrides for cell in cells)


def test_what_a_scale_gives_an_arm_holds_over_the_arm_s_own() -> None:
    scales = {"tiny": {"overrides": ["loss.beta=5"], "arms": {"dpo": ["loss.beta=1,2"]}}}
    cells = cells_of(study(scales=scales), ["scale=tiny", "seed=0", "corruption.rate=0"])
    assert [words(cell, "loss.beta") for cell in cells] == [["loss.beta=5"], ["loss.beta=1"], ["loss.beta=2"]]


def words(cell: Cell, key: str) -> list[str]:
    return [word for word in cell.overrides if word.lstrip("+").startswith(f"{key}=")]


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        (
            {"arms": {"kto": ["corruption.rate=0.1"]}},
            [],
            "study.grid of noise varies corruption.rate, which study.arms.kto",
        ),
        ({"overrides": ["corruption.rate=0.1"]}, [], "varies corruption.rate, which study.overrides of noise sets"),
        (
            {"scales": {"tiny": {"overrides": ["+corruption.rate=0,0.4"]}}},
            ["scale=tiny"],
            "varies corruption.rate, which study.scales.tiny.overrides of noise sets. Leave one of them out",
        ),
        (
            {"scales": {"tiny": {"arms": {"kto": ["seed=1"]}}}},
            ["scale=tiny"],
            "study.seeds of noise varies seed, which",
        ),
        ({"arms": {"kto": ["loss.beta=1", "loss.beta=2"]}}, [], "study.arms.kto of noise sets loss.beta twice: "),
        ({"overrides": ["seed=0", "++seed=1"]}, [], r"study.overrides of noise sets seed twice: seed=0 and \+\+seed=1"),
        ({}, ["seed=0", "seed=1"], "the command line sets seed twice: seed=0 and seed=1. .* seed=A,B"),
    ],
)
def test_nothing_that_is_set_is_dropped_in_silence(changes: dict[str, Any], given: Sequence[str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        cells_of(study(**changes), given)


def test_what_the_command_line_replaces_in_arms_is_told() -> None:
    given = ["scale=tiny", "loss.beta=1", "corruption.rate=0.1", "++optimization.epochs=3"]
    assert replaced_in_arms(study(scales=SCALES), given) == {"loss.beta=1": ["kto", "dpo"]}
    assert replaced_in_arms(study(), given) == {"loss.beta=1": ["dpo"]}
    cells = cells_of(study(), [*given, "seed=0"])
    assert [(words(cell, "loss.beta"), "loss.beta" in cell.choices) for cell in cells] == 2 * [(["loss.beta=1"], False)]
    # Also where it is forced in: a choice that no cell has would be told of a run.
    (forced, *_) = cells_of(study(arms={"dpo": ["loss.beta=0.1,0.2"]}), ["++loss.beta=1"])
    assert words(forced, "loss.beta") == ["++loss.beta=1"] and "loss.beta" not in forced.choices


@pytest.mark.parametrize("name", ["../../../x", "/tmp/x", "a/b", "..", "", "a\x00b"])
def test_a_study_is_called_what_a_folder_can_be(name: str) -> None:
    with pytest.raises(LabError, match=r"study\.name is"):
        study(name=name)
