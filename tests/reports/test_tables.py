import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kto_lab.errors import LabError
from kto_lab.reports import load
from kto_lab.reports.comparisons import OVER_SEEDS_AND_PROMPTS, Outcome, mean_over_seeds
from kto_lab.reports.specs import Choose, TableSpec
from kto_lab.reports.tables import BASE, Text, build, heading, text
from kto_lab.reports.verdicts import BETTER, WORSE, verdicts
from kto_lab.runs import scores as scores_module
from kto_lab.runs.prompt_scores import PromptScores
from kto_lab.runs.scores import scores_in
from kto_lab.statistics import Estimate
from kto_lab.sweeps.contrasts import Contrast
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
    assert (table.rows, table.columns) == ([("dpo",), ("kto",), ("sft",), (BASE,)], [0.0, 0.2])
    mine = frame[(frame["arm"] == "sft") & (frame["corruption.rate"] == 0.2)]
    values, folders = mine["pass_rate"], mine["folder"]
    group = table.entries[("sft",), 0.2, "pass_rate"].group
    assert group is not None
    assert group.mean.estimate.value == pytest.approx(values.mean())
    scores = scores_in(study)
    runs = [Outcome(values.iloc[seed], scores(folder, "pass_rate")) for seed, folder in enumerate(folders)]
    found = mean_over_seeds(runs, (0, 1))
    assert found.interval == OVER_SEEDS_AND_PROMPTS
    low, high = found.estimate.low, found.estimate.high
    assert text(table, ("sft",), 0.2, "pass_rate").interval == f"[{low:.3f}, {high:.3f}]"
    assert heading(table, 0.2, "pass_rate") == "pass rate, corruption rate 0.2"


def contrast(rate: float, of: str = "kto", against: str = "dpo", **more: Any) -> Contrast:
    where = {"corruption.rate": rate}
    return Contrast(f"{of}_{rate}", {"arm": of}, {"arm": against}, "pass_rate", "greater", where=where, **more)


def test_what_a_contrast_found_better_or_worse_is_marked_and_nothing_else(study: Path) -> None:
    frame = load(study)
    found = verdicts(frame, [contrast(0.2), contrast(0, "dpo", "kto")], study)
    table = build(frame, SPEC, study, contrasts=found)
    # The second is turned round: of the table's baseline. Other differences are as large and are not marked.
    marks = {key: entry.mark for key, entry in table.entries.items() if entry.mark}
    assert marks == {(("kto",), 0.2, "pass_rate"): BETTER, (("kto",), 0.0, "pass_rate"): BETTER}
    by_kto = build(frame, replace(SPEC, baseline={"arm": "kto"}), study, contrasts=found)
    assert {key[0]: entry.mark for key, entry in by_kto.entries.items() if entry.mark} == {("dpo",): WORSE}
    assert not any(entry.mark for entry in build(frame, SPEC, study).entries.values())
    assert "Bold: better, italic: worse, at 5 % after Holm over the 2 contrasts" in table.caption
    assert "They are descriptive: the study names none of them" in build(frame, SPEC, study).caption
    entry = table.entries[("kto",), 0.2, "pass_rate"]
    assert entry.contrast is found[0] and entry.difference is not None
    assert entry.difference.paired_by == "seed and prompt" and entry.difference.p == found[0].p
    assert table.entries[("dpo",), 0.2, "pass_rate"].difference is None


def test_the_base_policy_is_the_last_row(study: Path) -> None:
    frame = load(study)
    table = build(frame, SPEC, study)
    base = table.entries[(BASE,), 0.2, "pass_rate"]
    assert base.group is not None and base.difference is None
    # One policy that was measured once: its interval is over prompts.
    assert base.group.mean.estimate == Estimate(
        frame["pass_rate_base"][0], frame["pass_rate_base_low"][0], frame["pass_rate_base_high"][0], 1
    )
    assert text(table, (BASE,), 0.2, "pass_rate").interval.startswith("[0.")
    # Of KL it has none.
    assert text(table, (BASE,), 0.2, "kl") == Text("", "", "")
    frame.loc[0, "pass_rate_base"] = 0.9
    assert text(build(frame, SPEC, study), (BASE,), 0.0, "pass_rate").value == ""
    lone = build(frame.drop(columns=[name for name in frame if "_base" in name]), SPEC, study)
    assert (BASE,) not in lone.rows


def test_a_comparison_of_the_same_numbers_is_counted_once(tmp_path: Path) -> None:
    made = by_rate({**RATES, "kto_again": RATES["kto"]})
    home = write_study(tmp_path, grid(arm=["dpo", "kto", "kto_again", "sft"]), made)
    table = build(load(home), TableSpec("t", ["arm"], ["pass_rate"], baseline={"arm": "dpo"}), home)
    assert "corrected for the 2 distinct comparisons here" in table.caption


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
    assert all(e.difference for (row, *_), e in table.entries.items() if row != ("kto", 0.0) and row[0] != BASE)


def test_the_caption_says_what_the_numbers_are(study: Path) -> None:
    table = build(load(study), SPEC, study)
    caption = table.caption
    assert caption.startswith(
        "Pass rate by noise. Mean of 4 seeds with its 95 % interval over new seeds and new prompts."
    )
    assert f"Prompts: pass rate {PROMPTS}; KL, nats/answer 32." in caption
    assert "Differences to the baseline arm dpo are paired by seed and prompt." in caption
    least = re.search(r"80 % power, corrected for the (\d) distinct comparisons here: pass rate ([0-9.]+)", caption)
    assert least is not None
    changes = [e.difference for (*_, metric), e in table.entries.items() if metric == "pass_rate" and e.difference]
    corrected = [change.detectable(int(least[1])) for change in changes]
    assert float(least[2]) == pytest.approx(min(size for size in corrected if size), abs=0.001)
    assert float(least[2]) > min(size for size in (change.detectable() for change in changes) if size)


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


def test_runs_that_are_lacking_are_seen_and_never_marked(tmp_path: Path) -> None:
    home = lacking(tmp_path, {3: "failed"})
    frame = load(home)
    found = verdicts(frame, [Contrast("c", {"arm": "kto"}, {"arm": "dpo"}, "pass_rate", "greater")], home)
    table = build(frame, TableSpec("t", ["arm"], ["pass_rate"], baseline={"arm": "dpo"}), home, contrasts=found)
    entry = table.entries[("kto",), None, "pass_rate"]
    assert entry.contrast is not None and entry.contrast.p_holm is not None and entry.contrast.p_holm <= 0.05
    assert entry.mark is None and (entry.contrast.verdict, entry.contrast.reason) == ("open", "of 8 runs 1 failed")
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


def test_one_seed_is_never_marked(tmp_path: Path) -> None:
    home = write_study(tmp_path, grid([0], arm=["dpo", "kto"]), by_rate(RATES))
    frame = load(home)
    found = verdicts(frame, [Contrast("c", {"arm": "kto"}, {"arm": "dpo"}, "pass_rate", "greater")], home)
    table = build(frame, TableSpec("t", ["arm"], ["pass_rate"], baseline={"arm": "dpo"}), home, contrasts=found)
    entry = table.entries[("kto",), None, "pass_rate"]
    assert entry.difference is not None and entry.difference.estimate.low is not None
    assert entry.difference.estimate.low > 0 and entry.mark is None
    assert found[0].p is None and found[0].reason == "one seed is no evidence on methods"
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
def test_a_mark_is_false_in_at_most_one_study_of_twenty(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seeds)
    swept = grid(range(seeds), arm=list("abcd"), corruption__rate=[1, 2])
    cells = pd.DataFrame(
        [{**cell, "status": "done", "accepted_code": "", "run_id": f"{n}"} for n, cell in enumerate(swept)]
    )
    prompts = tuple(f"p{place:02}" for place in range(40))
    kept: dict[str, PromptScores] = {}
    monkeypatch.setattr(scores_module, "prompt_scores", lambda run, metric: kept[run.name])
    cells["folder"] = cells["run_id"]
    named = [contrast(rate, of, "a") for of in "bcd" for rate in (1, 2)]

    def some_marked(gain: float) -> bool:
        hard = rng.normal(0, 0.2, 40)
        passed = [rng.random(40) < 0.5 + hard + gain * (arm != "a") for arm in cells["arm"]]
        kept.update(zip(cells["run_id"], [PromptScores(prompts, row) for row in passed], strict=True))
        frame = cells.assign(pass_rate=[row.mean() for row in passed])
        return any(one.mark for one in verdicts(frame, named, Path()))

    # 5 % of 80 studies is 4, standard deviation 2.
    assert sum(some_marked(0.0) for _ in range(80)) <= 8
    if seeds == 5:
        assert all(some_marked(0.45) for _ in range(5))


def test_what_a_search_shows_is_in_the_order_of_the_sweep(tmp_path: Path) -> None:
    # The first setting is the best at the last rate alone.
    cells = grid(arm=["kto"], loss__beta=[1, 5], corruption__rate=[0, 0.2, 0.4])

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        best = (cell["loss.beta"] == 1) == (cell["corruption.rate"] == 0.4)
        write_run(folder, cell["seed"], draw(0.9 if best else 0.2, cell["seed"]))

    home = write_study(tmp_path, cells, run)
    choose = Choose(over=["loss.beta"], by="pass_rate")
    found = build(load(home), TableSpec("t", ["arm"], ["pass_rate"], columns="corruption.rate", choose=choose), home)
    assert found.rows == [("kto",), (BASE,)] and found.columns == [0, 0.2, 0.4]
