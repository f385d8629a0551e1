"""`hydra/sweeper=optuna`: trials are cells, judged by the validation prompts, and a repeated search costs nothing."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig

from kto_lab.cli import config_dir
from kto_lab.errors import LabError
from kto_lab.hashing import content_hash
from kto_lab.reports.report import report
from kto_lab.runs.identity import Identity
from kto_lab.runs.record import RECORD
from kto_lab.runs.scores import VALIDATION, half_of
from kto_lab.sweeps.composing import Planned
from kto_lab.sweeps.estimates import Work
from kto_lab.sweeps.manifest import STUDY
from kto_lab.sweeps.request import read
from kto_lab.sweeps.search import DEFAULTS, SWITCH, Found, asked_of, points_of, search, with_defaults
from kto_lab.sweeps.study import Cell, Study
from kto_lab.sweeps.sweep import sweep
from tests.reports.study_folders import fail, write_run

RATE = "optimization.learning_rate"
LOG = "tag(log,interval(1e-5,1e-3))"
PROMPTS = 40
IDENTITY = Identity("", {}, {}, {})


def study(**changes: Any) -> Study:
    parts: dict[str, Any] = {
        "name": "noise",
        "question": "Which learning rate?",
        "arms": {"kto": ["loss=kto", "loss.beta=interval(0.1,1)"], "sft": ["loss=sft"]},
        "grid": {},
        "seeds": [0, 1],
        "search": {"space": {RATE: LOG}},
    }
    return Study(**(parts | changes))


def score(rate: float) -> float:
    """Best at 1e-4."""
    return 1 - abs(math.log10(rate) + 4) / 2


class Lab:
    """Searches whose runs are written rather than run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[Cell] = []
        self.fails: Any = lambda cell: False

    def search(self, study: Study, *given: str, own: Sequence[str] = (), dry_run: bool = False) -> Found:
        config = composed(*own)
        return search(
            study,
            given,
            config=config,
            context=HydraContext(config_loader=None, callbacks=Callback()),  # type: ignore[arg-type]
            task=lambda cfg: None,
            plan=self.plan,
            make=None if dry_run else self.make,
            due=("missing",),
        )

    def plan(self, cell: Cell) -> Planned:
        identity = content_hash(cell.overrides)
        return Planned(cell, identity, self.folder / "cells" / identity, Work(("",), 1, 1, None), IDENTITY)

    def make(self, cells: Sequence[Planned], every: Sequence[Planned]) -> None:
        assert {cell.run_id for cell in cells} <= {cell.run_id for cell in every}
        for one in cells:
            if one.folder.exists():
                continue
            self.ran.append(one.cell)
            one.folder.mkdir(parents=True)
            if self.fails(one.cell):
                fail(one.folder)
            else:
                # What a trial is judged by is in the validation prompts alone; the others say the contrary.
                value = score(one.cell.choices[RATE]) + one.cell.choices["seed"] / 10
                halves = [half_of(f"p{place}") == VALIDATION for place in range(PROMPTS)]
                write_run(one.folder, one.cell.choices["seed"], [value if half else 1 - value for half in halves])


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", [*with_defaults([SWITCH]), *words], return_hydra_config=True)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return Lab(tmp_path / "runs")


def rates(found: Found, arm: str = "sft") -> list[float]:
    return [cell.cell.choices[RATE] for cell in found.planned if cell.cell.choices["arm"] == arm]


def test_each_arm_has_its_own_space_and_every_trial_all_seeds(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    found = lab.search(study(), own=["hydra.sweeper.n_trials=3"])
    assert [list(cell.choices) for cell in lab.ran[::6]] == [["arm", RATE, "loss.beta", "seed"], ["arm", RATE, "seed"]]
    assert [cell.choices["seed"] for cell in lab.ran] == [0, 1] * 6
    assert lab.ran[0].choices[RATE] == lab.ran[1].choices[RATE] != lab.ran[2].choices[RATE]
    first = lab.ran[0]
    assert first.overrides[:2] == ("loss=kto", "seed=0")
    assert first.overrides[2] == f"{RATE}={first.choices[RATE]}" and first.overrides[3].startswith("loss.beta=0.")
    assert len(found.planned) == 12 and not found.ahead
    # The mean over the seeds, of which the second is 0.1 better.
    said = capsys.readouterr().out
    value = score(lab.ran[6].choices[RATE]) + 0.05
    assert f"arm=sft: trial 1 of 3: {RATE}={lab.ran[6].choices[RATE]}: pass_rate {value:.3f} (validation)" in said
    best = max(rates(found), key=score)
    assert f"best of arm=sft: {RATE}={best}: pass_rate {score(best) + 0.05:.3f}" in said
    # Nothing is left beside the runs.
    assert [path.name for path in Path.cwd().iterdir()] == ["runs"]


def test_it_finds_what_is_good_on_the_validation_prompts(lab: Lab) -> None:
    found = lab.search(study(seeds=[0]), own=["hydra.sweeper.n_trials=25"])
    late = sorted(map(score, rates(found)[-10:]))
    # Random proposals have a median of 0.75.
    assert late[len(late) // 2] > 0.85
    worse = lab.search(study(seeds=[0]), own=["hydra.sweeper.n_trials=25", "hydra.sweeper.direction=minimize"])
    assert max(map(score, rates(worse)[-5:])) < late[len(late) // 2]


def test_the_same_search_asks_for_the_same_trials_and_a_longer_one_goes_on(lab: Lab) -> None:
    first = lab.search(study(), own=["hydra.sweeper.n_trials=12"])
    assert len(lab.ran) == len(first.planned) == 2 * 12 * 2
    again = lab.search(study(), own=["hydra.sweeper.n_trials=12"])
    assert again == first and len(lab.ran) == 48
    longer = lab.search(study(), own=["hydra.sweeper.n_trials=14"])
    assert len(lab.ran) == 48 + 8 and rates(longer)[:24] == rates(first)
    lab.search(study(), own=["hydra.sweeper.n_trials=12", "hydra.sweeper.sampler.seed=1"])
    assert len(lab.ran) == 48 + 8 + 48


def test_values_that_are_proposed_twice_are_run_once(lab: Lab) -> None:
    found = lab.search(
        study(arms={"sft": ["loss=sft"]}, search={}), f"{RATE}=1e-4,1e-3", own=["hydra.sweeper.n_jobs=4"]
    )
    assert sorted(set(rates(found))) == [1e-4, 1e-3] and len(lab.ran) == len(found.planned) == 4


def test_a_failed_cell_fails_its_trial_and_stops_no_other(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.fails = lambda cell: cell.choices["arm"] == "sft" and cell.choices[RATE] > 1e-4 and cell.choices["seed"] == 1
    own = ["hydra.sweeper.n_trials=6"]
    found = lab.search(study(), own=own)
    said = capsys.readouterr().out
    bad = sum(rate > 1e-4 for rate in rates(found)[::2])
    assert 0 < bad < 6 and said.count("1 of 2 cells are not done") == bad
    assert said.count("arm=sft: trial") == 6
    best = said.partition("best of arm=sft: ")[2]
    assert float(best.partition("=")[2].partition(":")[0]) <= 1e-4
    assert lab.search(study(), own=own) == found
    with pytest.raises(LabError, match="1 of 2 cells are not done; see"):
        lab.search(study(), own=[*own, "hydra.sweeper.max_failure_rate=0"])


def test_where_every_trial_fails_there_is_no_best_one(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.fails = lambda cell: cell.choices["arm"] == "kto"
    lab.search(study(), own=["hydra.sweeper.n_trials=2"])
    said = capsys.readouterr().out
    assert "best of arm=sft" in said and "best of arm=kto" not in said


def test_a_dry_run_goes_as_far_as_results_are_known_and_counts_the_rest(lab: Lab) -> None:
    own = ["hydra.sweeper.n_trials=3"]
    nothing = lab.search(study(), own=own, dry_run=True)
    assert len(nothing.planned) == 4 and len(nothing.ahead) == 8 and not lab.ran
    found = lab.search(study(), own=own)
    assert found.planned[:2] == nothing.planned[:2]
    known = lab.search(study(), own=own, dry_run=True)
    assert known == found
    further = lab.search(study(), own=["hydra.sweeper.n_trials=5"], dry_run=True)
    assert len(further.planned) == 12 + 4 and len(further.ahead) == 4


def test_a_run_without_scores_cannot_be_judged(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"keeps no sentiment of any validation prompt"):
        lab.search(study(search={"space": {RATE: LOG}, "metric": "sentiment"}))


def test_values_that_optuna_refuses_are_said(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"Optuna cannot search arm=kto: .*low"):
        lab.search(study(), f"{RATE}=tag(log,interval(0.0,1.0))")


def points(study: Study, *given: str) -> list[tuple[dict[str, Any], dict[str, str], int]]:
    found = points_of(study, given, asked_of(study))
    return [(point.choices, point.space, len(point.cells)) for point in found]


def test_the_grid_stays_and_what_sweeps_on_the_command_line_is_searched() -> None:
    rate = {RATE: LOG}
    found = points(study(grid={"corruption.rate": "0,0.2"}), "seed=0,1,2", "optimization.max_steps=5")
    assert found == [
        ({"arm": "kto", "corruption.rate": 0}, rate | {"loss.beta": "interval(0.1,1)"}, 3),
        ({"arm": "kto", "corruption.rate": 0.2}, rate | {"loss.beta": "interval(0.1,1)"}, 3),
        ({"arm": "sft", "corruption.rate": 0}, rate, 3),
        ({"arm": "sft", "corruption.rate": 0.2}, rate, 3),
    ]
    # One value there ends the search for it.
    assert points(study(), "loss.beta=0.3")[0] == ({"arm": "kto"}, rate, 2)
    assert points(study(), "++loss.beta=0.3")[0] == ({"arm": "kto"}, rate, 2)
    # It takes the place of the grid's and of the arms'.
    found = points(study(grid={"corruption.rate": "0,0.2"}, search={}), "corruption.rate=0.1,0.3", "loss.beta=1,2")
    space = {"corruption.rate": "0.1,0.3", "loss.beta": "1,2"}
    assert found == [({"arm": "kto"}, space, 2), ({"arm": "sft"}, space, 2)]


def test_a_fixed_value_of_what_is_searched_gives_way() -> None:
    (point, *_) = points_of(study(overrides=[f"{RATE}=1", "scale=tiny"]), [], asked_of(study()))
    assert point.cells[0].overrides == ("scale=tiny", "loss=kto", "seed=0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {}}, "nothing to search in the arm sft"),
        ({"search": {"spaces": {}}}, "has a key 'spaces'. Keys are space, metric, direction, trials"),
        ({"search": {"space": {RATE: "1e-4"}}}, "has one value for optimization.learning_rate"),
        ({"search": {"space": {RATE: "interval(1"}}}, "study.search of noise.space"),
        ({"search": {"space": {RATE: LOG}, "metric": "kl"}}, "metric is 'kl'.*pass_rate"),
        (
            {"search": {"space": {RATE: LOG}, "direction": "minimize"}},
            "direction is minimize.*Write direction: maximize",
        ),
        ({"search": {"space": {RATE: LOG}, "metric": "answer_length"}}, "Write direction: maximize, or minimize"),
    ],
)
def test_a_search_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        points(study(**changes))


def test_the_extra_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_defaults(["study=small"]) == ["study=small"]
    assert with_defaults([SWITCH, "study=small"]) == [*DEFAULTS, SWITCH, "study=small"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"pip install 'kto-lab\[search\]'"):
        with_defaults([SWITCH])


SMALL_STUDY = """# A search for the tests.
name: small
question: Which learning rate?
arms: {kto: [loss=kto, "loss.beta=tag(log,interval(0.1,5.0))"], sft: [loss=sft]}
grid: {}
seeds: [0]
search: {space: {optimization.learning_rate: "tag(log,interval(1e-5,1e-3))"}, trials: 2}
tables:
  - name: best
    rows: [arm]
    metrics: [pass_rate]
    choose: {over: [optimization.learning_rate, loss.beta], by: pass_rate}
"""


def words(folder: Path, *more: str) -> list[str]:
    size = ["scale=tiny", "optimization.max_steps=2", "evaluation.prompts=24", "evaluation.kl_prompts=4"]
    where = ["--config-dir", str(folder / "own"), "study=small", f"runs_dir={folder / 'runs'}"]
    return [*where, SWITCH, *size, "evaluation.reward_examples=8", *more]


def command(folder: Path, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kto_lab.cli", "sweep", *words(folder, *more)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def fresh_hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_hydra")
def test_a_search_through_the_command_is_resumed_extended_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own" / "study").mkdir(parents=True)
    (tmp_path / "own" / "study" / "small.yaml").write_text(SMALL_STUDY)
    said = command(tmp_path)
    assert "arm=sft: trial 2 of 2" in said and "4 of 4 cells are done" in said
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob(f"runs/cells/*/{RECORD}")}
    # The study's number of trials is a default.
    more = "hydra.sweeper.n_trials=3"
    sweep(
        read([*words(tmp_path, more), "--dry-run"]),
        lambda cfg: None,
        config_dir=config_dir(),
        log_study=lambda logger, home: None,
    )
    ahead = capsys.readouterr().out
    assert "6 cells: 4 done, 2 missing" in ahead and ahead.count("missing    ~ ") == 2
    assert "Time of 2 cells: about" in ahead and "2 of them from finished runs with the same" in ahead
    assert "6 of 6 cells are done" in command(tmp_path, more)
    after = {file: file.stat().st_mtime_ns for file in tmp_path.glob(f"runs/cells/*/{RECORD}")}
    assert len(after) == 6 and before.items() <= after.items()
    home = tmp_path / "runs" / "studies" / "small"
    cells = json.loads((home / STUDY).read_text())["cells"]
    assert {cell["run_id"] for cell in cells} == {file.parent.name for file in after}
    assert all(RATE in cell["choices"] for cell in cells)
    report(home)
    table = (home / "tables" / "best.md").read_text()
    assert "each tried 3 settings" in table and "kto" in table and "sft" in table
