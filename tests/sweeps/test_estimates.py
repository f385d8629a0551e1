"""What a study will cost: told from finished runs like it, scaled where they differ, unknown where there is none."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from kto_lab.files import write_json
from kto_lab.sweeps.estimates import Cost, Costs, at_once, finished_runs, told, totals, work_of
from tests.reports.study_folders import record

TRAINING = 300.0
REST = 100.0


def run(**changes: Any) -> dict[str, Any]:
    """A record of 400 s, of which 300 s are training on 400 of 406 examples; `__` in a name stands for a dot."""
    found = copy.deepcopy(record(0, scores=[1.0, 0.0]))
    found["timings"] = {"training": TRAINING, "evaluation after": REST}
    for name, value in changes.items():
        *place, last = name.split("__")
        node = found
        for key in place:
            node = node[key]
        node[last] = value
    return found


def config(**changes: Any) -> Mapping[str, Any]:
    return run(**{f"config__{name}": value for name, value in changes.items()})["config"]


def costs(folder: Path, *records: dict[str, Any]) -> Costs:
    for number, one in enumerate(records):
        write_json(folder / "cells" / f"{number:04x}" / "record.json", one | {"run_id": f"{number:04x}"})
    return Costs(finished_runs(folder))


def of(costs: Costs, **changes: Any) -> Cost:
    found = costs.of(work_of(config(**changes)))
    assert found is not None
    return found


def test_another_seed_costs_the_median_of_the_runs_with_the_same_settings(tmp_path: Path) -> None:
    seeds = [run(config__seed=seed, timings__training=TRAINING + 10 * seed**2) for seed in (0, 1, 2)]
    other = run(config__optimization__learning_rate=1.0, timings__training=1.0)
    found = of(costs(tmp_path, *seeds, other), seed=7, run_dir="elsewhere")
    assert (found.way, found.runs) == (0, 3)
    assert (found.seconds, found.low, found.high) == (410.0, 400.0, 440.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimization__learning_rate": 1.0, "optimization__schedule": "constant"},
        {"loss__beta": 7.0, "loss__weighting": {"target": 3}},
    ],
)
def test_numbers_that_change_no_work_change_no_cost(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = of(costs(tmp_path, run()), **changes)
    assert (found.way, found.seconds) == (1, TRAINING + REST)


def test_training_is_scaled_by_the_examples_and_the_rest_is_not(tmp_path: Path) -> None:
    known = costs(tmp_path, run())
    assert of(known, optimization__max_steps=50, optimization__epochs=9).seconds == TRAINING * 800 / 400 + REST
    # Two epochs of 406 examples; the run saw 400.
    assert of(known, optimization__epochs=2).seconds == pytest.approx(TRAINING * 812 / 400 + REST)
    # The steps would take more epochs than there are.
    assert of(known, optimization__max_steps=1000).seconds == pytest.approx(TRAINING * 406 / 400 + REST)
    assert of(known, optimization__batch_size=8).way == 2


def test_the_same_loss_is_asked_before_another(tmp_path: Path) -> None:
    slow = run(config__loss__function="kto_lab.losses.dpo", timings__training=900.0)
    both = costs(tmp_path, run(), slow)
    assert of(both, optimization__max_steps=10).seconds == pytest.approx(TRAINING * 160 / 400 + REST)
    other = of(both, loss__function="kto_lab.losses.sft")
    assert (other.way, other.runs, other.low) == (3, 2, pytest.approx(TRAINING * 406 / 400 + REST))


def test_a_corruption_changes_the_work_only_where_the_examples_end_the_run(tmp_path: Path) -> None:
    fewer = {"corruption": {"keep_desirable": 0.1}}
    assert of(costs(tmp_path / "data", run()), **fewer).way == 2
    steps = run(config__optimization__max_steps=5)
    assert of(costs(tmp_path / "steps", steps), optimization__max_steps=5, **fewer).way == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"model__dtype": "bfloat16"},
        {"adapter": {"_target_": "lora"}},
        {"feedback__train_prompts": 10},
        {"evaluation__prompts": 10},
        {"trainer__accelerator": "gpu"},
        {"trainer__devices": 2},
    ],
)
def test_runs_of_other_data_or_hardware_say_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    known = costs(tmp_path, run())
    work = work_of(config(**changes))
    assert known.of(work) is None
    assert told(known, "new", work) == "unknown"
    assert list(totals([known.of(work)], 1)) == ["The cost of 1 of 1 cells is unknown: no finished run like it."]


def test_a_path_is_the_same_wherever_the_run_folder_is(tmp_path: Path) -> None:
    known = costs(tmp_path, run(config__feedback__path="../../thumbs.jsonl"))
    assert of(known, feedback__path="/data/thumbs.jsonl").way == 0


def test_only_gpus_that_were_used_count(tmp_path: Path) -> None:
    one, two = {"devices": 1, "accelerator": "auto"}, {"devices": 2, "num_nodes": 2, "accelerator": "gpu"}
    seen = {"environment__gpus": ["Fast GPU"] * 8, "peak_memory__cuda": 20 * 10**9}
    trainer = config()["trainer"]
    known = costs(
        tmp_path,
        run(config__trainer=trainer | one, **seen),
        run(config__trainer=trainer | two, **seen),
        run(config__trainer=trainer | {"accelerator": "cpu"}, **seen),
    )
    found = [of(known, trainer=trainer | changes) for changes in (one, two, {"accelerator": "cpu"})]
    assert [cost.gpus for cost in found] == [1, 4, 0]
    assert [cost.cuda is None for cost in found] == [False, False, True]
    said = "\n".join(totals(found[:2], 1))
    assert f"GPU-hours: {5 * (TRAINING + REST) / 3600:.1f}." in said
    assert "20.0 GB on its GPUs" in said and "1 x Fast GPU; 4 x Fast GPU" in said
    assert "GPU-hours: 0;" in "\n".join(totals(found[2:], 1))


def test_totals_say_the_sum_the_spread_the_parallel_time_and_what_they_rest_on(tmp_path: Path) -> None:
    known = costs(tmp_path, run(), run(timings__training=TRAINING + 200))
    cells = [of(known), of(known), of(known), None]
    said = list(totals(cells, 2))
    assert said[0] == "The cost of 1 of 4 cells is unknown: no finished run like it."
    assert said[1] == "Time of 3 cells: about 25 min 00 s (from 20 min 00 s to 30 min 00 s), one after another."
    # Two rounds: three cells of 500 s do not go through two places in 750 s.
    assert said[2] == "With 2 at a time, as this launcher has them: 16 min 40 s at best."
    assert "3 of them from finished runs with the same settings (2 each)." in said
    assert list(totals([], 4)) == []


def test_what_a_finished_cell_took_is_its_own(tmp_path: Path) -> None:
    known = costs(tmp_path, run(), run(timings__training=900.0))
    assert told(known, "0001", work_of(config())) == "16 min 40 s"
    assert told(known, "new", work_of(config())) == "~ 11 min 40 s"


def test_records_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    costs(tmp_path, run(), run(schema=0), run(training={}))
    broken = tmp_path / "cells" / "beef" / "record.json"
    broken.parent.mkdir()
    broken.write_text("{")
    assert [one.run_id for one in finished_runs(tmp_path)] == ["0000"]
    assert finished_runs(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("launcher", "cells"), [({}, 1), ({"n_jobs": 3}, 3), ({"n_jobs": -1}, 1), ({"array_parallelism": 256}, 256)]
)
def test_how_many_cells_a_launcher_runs_at_a_time(launcher: dict[str, int], cells: int) -> None:
    assert at_once(OmegaConf.create(launcher)) == cells
