from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kto_lab.errors import LabError
from kto_lab.reports import load
from kto_lab.reports.specs import Choose, TableSpec
from kto_lab.reports.tables import build, heading, text
from kto_lab.runs import scores as scores_module
from kto_lab.runs.prompt_scores import PromptScores
from tests.reports.study_folders import PROMPTS, by_rate, draw, fail, grid, write_run, write_study

RATES = {"dpo": 0.2, "kto": 0.85, "sft": 0.3}
SPEC = TableSpec(
    name="noise",
    rows=["arm"],
    columns="corruption.rate",
    metrics=["pass_rate", "kl"],
    baseline={"arm": "dpo"},
    caption="Pass rate by noise.",
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    cells = grid(range(4), arm=list(RATES), corruption__rate=[0, 0.2])
    return write_study(tmp_path, cells, by_rate(RATES, slope=0.3))


def test_means_over_seeds_in_the_order_of_the_sweep(study: Path) -> None:
    frame = load(study)
    table = build(frame, SPEC, study)
    assert (table.rows, table.columns) == ([("dpo",), ("kto",), ("sft",)], [0.0, 0.2])
    values = frame[(frame["arm"] == "sft") & (frame["corruption.rate"] == 0.2)]["pass_rate"]
    group = table.entries[("sft",), 0.2, "pass_rate"].group
    assert group is not None
    assert group.mean.estimate.value == pytest.approx(values.mean())
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert text(table, ("sft",), 0.2, "pass_rate").interval == f"[{low:.3f}, {high:.3f}]"
    assert heading(table, 0.2, "pass_rate") == "pass rate, corruption rate 0.2"


def test_the_best_is_bold_where_it_beats_the_baseline_of_its_column(study: Path) -> None:
    table = build(load(study), SPEC, study)
    bold = {key for key, entry in table.entries.items() if entry.bold}
    # Of KL neither more nor less is better, so none is bold however certain it is.
    assert bold == {(("kto",), 0.0, "pass_rate"), (("kto",), 0.2, "pass_rate")}
    found = table.entries[("kto",), 0.2, "pass_rate"]
    assert found.difference is not None and found.difference.paired_by == "seed and prompt"
    assert found.difference.p is not None and found.p_holm is not None
    assert found.p_holm > found.difference.p
    assert table.entries[("dpo",), 0.2, "pass_rate"].difference is None


def test_without_the_scores_of_prompts_seeds_are_paired(study: Path) -> None:
    found = build(load(study), SPEC).entries[("kto",), 0.0, "pass_rate"].difference
    frame = load(study).query("`corruption.rate` == 0")
    seeds = [frame[frame["arm"] == arm]["pass_rate"].to_numpy() for arm in ("kto", "dpo")]
    assert found is not None and found.paired_by == "seed"
    assert found.p == pytest.approx(stats.ttest_rel(*seeds).pvalue)


def test_a_baseline_may_be_one_cell_for_all(study: Path) -> None:
    spec = TableSpec("t", ["arm", "corruption.rate"], ["pass_rate"], baseline={"arm": "kto", "corruption.rate": 0})
    table = build(load(study), spec, study)
    assert table.entries[("kto", 0.0), None, "pass_rate"].difference is None
    assert all(e.difference for (row, *_), e in table.entries.items() if row != ("kto", 0.0))
    # The best is the baseline: nothing is better than it.
    assert not any(entry.bold for entry in table.entries.values())


def test_the_caption_says_what_the_numbers_are(study: Path) -> None:
    caption = build(load(study), SPEC, study).caption
    assert caption.startswith("Pass rate by noise. Mean of 4 seeds with its 95 % interval over seeds (Student's t).")
    assert f"Prompts: pass rate {PROMPTS}; KL, nats/answer 32." in caption
    assert "better than the baseline arm=dpo (t test paired by seed and prompt" in caption
    assert "5 % after Holm over 4 comparisons" in caption
    assert "Smallest difference shown with 80 % power before Holm: pass rate 0." in caption


def lacking(tmp_path: Path, lost: Mapping[int, str]) -> Path:
    """A study in which some seeds of KTO came to nothing."""
    made = by_rate(RATES)

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        state = lost.get(cell["seed"]) if cell["arm"] == "kto" else None
        if state == "failed":
            fail(folder)
        elif state is None:
            made(folder, cell)

    return write_study(tmp_path, grid(range(4), arm=["dpo", "kto"]), run)


def test_runs_that_are_lacking_are_seen_and_never_bold(tmp_path: Path) -> None:
    home = lacking(tmp_path, {3: "failed"})
    table = build(load(home), TableSpec("t", ["arm"], ["pass_rate"], baseline={"arm": "dpo"}), home)
    entry = table.entries[("kto",), None, "pass_rate"]
    assert entry.p_holm is not None and entry.p_holm <= 0.05
    assert not entry.bold
    assert text(table, ("kto",), None, "pass_rate").note == "3 of 4 seeds: 1 failed"
    assert "Of 8 runs, 1 failed." in table.caption


@pytest.mark.parametrize(
    ("lost", "note"),
    [
        (dict.fromkeys(range(4), "failed"), "failed"),
        (dict.fromkeys(range(4), "missing"), "missing"),
        ({0: "failed", 1: "missing", 2: "missing", 3: "failed"}, "0 of 4 seeds: 2 failed, 2 missing"),
    ],
)
def test_where_no_run_is_left_the_cell_says_why(lost: dict[int, str], note: str, tmp_path: Path) -> None:
    home = lacking(tmp_path, lost)
    table = build(load(home), TableSpec("t", ["arm"], ["pass_rate"], baseline={"arm": "dpo"}), home)
    found = text(table, ("kto",), None, "pass_rate")
    assert (found.value, found.interval, found.note) == ("", "", note)
    assert "Nothing is tested" in table.caption


def test_a_cell_that_was_not_swept_is_not_a_missing_run(tmp_path: Path) -> None:
    cells = [*grid(arm=["kto"], corruption__rate=[0, 0.2]), *grid(arm=["dpo"], corruption__rate=[0])]
    home = write_study(tmp_path, cells, by_rate(RATES))
    table = build(load(home), TableSpec("t", ["arm"], ["pass_rate"], columns="corruption.rate"), home)
    assert text(table, ("dpo",), 0.2, "pass_rate").note == "no such run"
    assert "Of " not in table.caption


def test_one_seed_is_never_bold(tmp_path: Path) -> None:
    home = write_study(tmp_path, grid([0], arm=["dpo", "kto"]), by_rate(RATES))
    table = build(load(home), TableSpec("t", ["arm"], ["pass_rate"], baseline={"arm": "dpo"}), home)
    entry = table.entries[("kto",), None, "pass_rate"]
    assert entry.difference is not None and entry.difference.estimate.low is not None
    assert entry.difference.estimate.low > 0 and entry.p_holm is None and not entry.bold
    assert "the 95 % interval is over the prompts of its run" in table.caption


def test_mistakes_in_a_specification_are_named(study: Path) -> None:
    frame = load(study)
    with pytest.raises(LabError, match=r"table t: no finished run has the metric 'pas_rate'. There are pass_rate"):
        build(frame, TableSpec("t", ["arm", "corruption.rate"], ["pas_rate"]))
    with pytest.raises(LabError, match="also differ by corruption"):
        build(frame, TableSpec("t", ["arm"], ["pass_rate"]))
    with pytest.raises(LabError, match="no cell of the study is the baseline arm=ppo"):
        build(frame, TableSpec("t", ["arm"], ["kl"], columns="corruption.rate", baseline={"arm": "ppo"}))


def test_decimals_follow_the_intervals(tmp_path: Path) -> None:
    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        write_run(folder, cell["seed"], draw(0.5, cell["seed"]), kl=120 + 30 * cell["seed"])

    home = write_study(tmp_path, grid(arm=["kto"]), run)
    table = build(load(home), TableSpec("t", ["arm"], ["pass_rate", "kl", "seconds"]), home)
    assert text(table, ("kto",), None, "kl").value == "150"
    assert text(table, ("kto",), None, "seconds").value == "536"


@pytest.mark.parametrize("seeds", [3, 5])
def test_bold_is_false_in_at_most_one_table_of_twenty(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seeds)
    swept = grid(range(seeds), arm=list("abcd"), loss=[1, 2])
    cells = pd.DataFrame([{**cell, "status": "done", "folder": "x"} for cell in swept])
    drawn: list[PromptScores] = []
    monkeypatch.setattr(scores_module, "prompt_scores", lambda run, metric: drawn.pop(0))
    spec = TableSpec("t", ["arm"], ["pass_rate"], columns="loss", baseline={"arm": "a"})
    prompts = tuple(f"p{place:02}" for place in range(40))

    def some_bold(gain: float) -> bool:
        hard = rng.normal(0, 0.2, 40)
        passed = [rng.random(40) < 0.5 + hard + gain * (arm != "a") for arm in cells["arm"]]
        drawn[:] = [PromptScores(prompts, row) for row in passed]
        table = build(cells.assign(pass_rate=[row.mean() for row in passed]), spec, Path())
        return any(entry.bold for entry in table.entries.values())

    # 5 % of 80 tables is 4, standard deviation 2.
    assert sum(some_bold(0.0) for _ in range(80)) <= 8
    if seeds == 5:
        assert all(some_bold(0.45) for _ in range(5))


def test_what_a_search_shows_is_in_the_order_of_the_sweep(tmp_path: Path) -> None:
    # The first setting is the best at the last rate alone.
    cells = grid(arm=["kto"], loss__beta=[1, 5], corruption__rate=[0, 0.2, 0.4])

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        best = (cell["loss.beta"] == 1) == (cell["corruption.rate"] == 0.4)
        write_run(folder, cell["seed"], draw(0.9 if best else 0.2, cell["seed"]))

    home = write_study(tmp_path, cells, run)
    choose = Choose(over=["loss.beta"], by="pass_rate")
    found = build(load(home), TableSpec("t", ["arm"], ["pass_rate"], columns="corruption.rate", choose=choose), home)
    assert found.rows == [("kto",)] and found.columns == [0, 0.2, 0.4]
