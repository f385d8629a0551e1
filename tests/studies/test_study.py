"""The cells of a study: arms, grid, seeds, and what the command line adds."""

from collections.abc import Sequence
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.studies.study import Study, cells_of


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
