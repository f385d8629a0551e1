"""Verdicts: confirmed, refuted or open, corrected over the contrasts that are different tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.reports import load
from kto_lab.reports.comparisons import holm
from kto_lab.reports.sheets import budget_sheet, claim, contrast_sheet
from kto_lab.reports.verdicts import BETTER, CONFIRMED, OPEN, REFUTED, WORSE, Verdict, finished_before, verdicts
from kto_lab.sweeps.contrasts import Choose, Contrast
from kto_lab.sweeps.manifest import read_study
from tests.reports.study_folders import by_rate, draw, fail, grid, write_run, write_study

RATES = {"kto": 0.85, "dpo": 0.3, "sft": 0.32}


def study(tmp_path: Path, rates: Mapping[str, float] = RATES, lost: Sequence[Any] = ()) -> Path:
    made = by_rate(rates)
    return write_study(
        tmp_path,
        grid(range(4), arm=list(rates)),
        lambda folder, cell: fail(folder) if (cell["arm"], cell["seed"]) in lost else made(folder, cell),
    )


def contrast(of: str, against: str, expect: str = "greater", metric: str = "pass_rate", **more: Any) -> Contrast:
    return Contrast(f"{of}_{against}", {"arm": of}, {"arm": against}, metric, expect, **more)


def only(home: Path, one: Contrast) -> Verdict:
    return verdicts(load(home), [one], home)[0]


@pytest.mark.parametrize(
    ("one", "verdict", "mark"),
    [
        (contrast("kto", "dpo"), CONFIRMED, BETTER),
        (contrast("kto", "dpo", "less"), REFUTED, BETTER),
        (contrast("dpo", "kto", "less"), CONFIRMED, WORSE),
        (contrast("dpo", "kto"), REFUTED, WORSE),
        (contrast("kto", "dpo", margin=0.1), CONFIRMED, BETTER),
        # Surely less than so much: what sign it has was not asked.
        (contrast("kto", "dpo", margin=0.95), REFUTED, None),
        (contrast("kto", "dpo", "equal", margin=0.1), REFUTED, BETTER),
        (contrast("kto", "dpo", "equal", margin=0.95), CONFIRMED, None),
        (contrast("sft", "dpo"), OPEN, None),
        (contrast("sft", "dpo", "equal", margin=0.05), OPEN, None),
    ],
)
def test_a_verdict_is_what_the_interval_says_of_the_margin(
    one: Contrast, verdict: str, mark: str | None, tmp_path: Path
) -> None:
    found = only(study(tmp_path), one)
    assert (found.verdict, found.mark) == (verdict, mark)
    assert found.reason == ("the data bear out neither" if verdict == OPEN else "")
    # Of one contrast nothing is corrected, and its test is its interval.
    assert found.p == found.p_holm and found.difference is not None
    low, high = found.difference.estimate.low, found.difference.estimate.high
    assert low is not None and high is not None
    ends = (
        [one.margin, -one.margin] if one.expect == "equal" else [one.margin if one.expect == "greater" else -one.margin]
    )
    assert (verdict == OPEN) == any(low <= end <= high for end in ends)


def test_holm_runs_over_the_contrasts_that_are_different_tests(tmp_path: Path) -> None:
    home = study(tmp_path, {**RATES, "kto_again": RATES["kto"]})
    named = [
        contrast("kto", "dpo"),
        contrast("dpo", "kto", "less"),
        contrast("kto_again", "dpo"),
        contrast("sft", "dpo"),
        contrast("kto", "dpo", "equal", margin=0.1),
    ]
    found = verdicts(load(home), named, home)
    # The second is the first turned round, and the third has its numbers.
    assert [one.tests for one in found] == [3] * 5
    p_values = [found[place].p for place in (0, 3, 4)]
    assert None not in p_values
    adjusted = holm([p for p in p_values if p is not None])
    assert [found[place].p_holm for place in range(5)] == pytest.approx([*[adjusted[0]] * 3, *adjusted[1:]])
    assert found[0].difference is not None and found[0].detectable == found[0].difference.detectable(3)


def test_a_setting_on_the_edge_leaves_a_contrast_open(tmp_path: Path) -> None:
    best = {"kto": 2, "dpo": 5}

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        rate = RATES[cell["arm"]] - 0.2 * (cell["loss.beta"] != best[cell["arm"]])
        write_run(folder, cell["seed"], draw(rate, 10 * cell["seed"] + cell["loss.beta"], 120))

    home = write_study(tmp_path, grid(arm=["kto", "dpo"], loss__beta=[1, 2, 5]), run)
    choose = Choose(["loss.beta"], "pass_rate")
    found = only(home, contrast("kto", "dpo", choose=choose))
    assert found.verdict == OPEN and found.mark is None
    assert found.reason.endswith("past which there may be a better one (dpo: loss beta 5)")
    assert found.p_holm is not None and found.p_holm < 0.05
    assert found.of is not None and not found.of.edges
    best["dpo"] = 2
    home = write_study(tmp_path / "wider", grid(arm=["kto", "dpo"], loss__beta=[1, 2, 5]), run)
    assert only(home, contrast("kto", "dpo", choose=choose)).verdict == CONFIRMED


def test_what_is_lacking_leaves_a_contrast_open(tmp_path: Path) -> None:
    found = only(study(tmp_path, lost=[("kto", 1), ("dpo", 2)]), contrast("kto", "dpo"))
    assert (found.verdict, found.reason, found.mark) == (OPEN, "of 8 runs 2 failed", None)
    none = only(study(tmp_path / "none", lost=[("kto", seed) for seed in range(4)]), contrast("kto", "dpo"))
    assert (none.verdict, none.reason, none.p) == (OPEN, "of 8 runs 4 failed", None)
    # A sweep that was narrowed on its command line.
    narrow = only(study(tmp_path / "narrow", {"kto": 0.5}), contrast("kto", "dpo"))
    assert (narrow.verdict, narrow.difference) == (OPEN, None) and narrow.reason.startswith(
        "the sweep has no such runs"
    )
    same = only(study(tmp_path / "same", {"kto": 0.5, "dpo": 0.5}), contrast("kto", "dpo"))
    assert (same.verdict, same.reason) == (OPEN, "nothing varies")


def test_a_metric_without_a_better_side_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"contrast kto_dpo: of kl neither more nor less is better.*such as pass_rate"):
        only(study(tmp_path), contrast("kto", "dpo", metric="kl"))
    with pytest.raises(LabError, match="contrast kto_dpo: no finished run has the metric 'word_perplexity'"):
        only(study(tmp_path / "other"), contrast("kto", "dpo", metric="word_perplexity"))
    # Before a run is done nobody knows what a task of lm-eval calls better.
    ahead = write_study(tmp_path / "ahead", grid(arm=list(RATES)), lambda folder, cell: None)
    assert only(ahead, contrast("kto", "dpo", metric="hellaswag.acc")).verdict == OPEN


def test_a_contrast_that_was_named_after_its_runs_says_so(tmp_path: Path) -> None:
    home = study(tmp_path)
    node = {"name": "c", "of": {"arm": "kto"}, "against": {"arm": "dpo"}, "metric": "pass_rate", "expect": "greater"}
    assert finished_before(read_study(home), [node], load(home)) == [12]
    (found,) = verdicts(load(home), [Contrast(**node)], home, finished=[12])
    sheet = contrast_sheet([found])
    assert sheet.rows[0][-1] == "confirmed (named when 12 runs were finished)"
    assert sheet.rows[0][1] == "pass rate: arm kto > arm dpo" and "results could have been seen" in sheet.caption


def test_a_claim_in_words() -> None:
    one = Contrast("c", {"arm": "kto"}, {"arm": "dpo"}, "pass_rate", "equal", 0.05, {"corruption.rate": 0.4})
    assert claim(one) == "pass rate: arm kto = arm dpo within 0.05, corruption rate 0.4"


def test_budgets_are_what_runs_saw(tmp_path: Path) -> None:
    home = study(tmp_path, lost=[("sft", 0)])
    frame = load(home)
    frame.loc[frame["arm"] == "dpo", "steps"] = [10, 20, 40, 40]
    sheet = budget_sheet(frame)
    assert sheet.heads[:3] == ["arm", "steps", "examples (pairs, for losses of pairs)"] and sheet.heads[-1] == "epochs"
    assert [row[0] for row in sheet.rows] == ["kto", "dpo", "sft"]
    assert [row[1] for row in sheet.rows] == ["25", "10 to 40", "25"]
    assert sheet.rows[0][-1] == f"{frame['units_seen'][0] / frame['units_available'][0]:.2g}"
