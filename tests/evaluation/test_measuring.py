"""A metric of one's own is found by its name, scores prompts, and is compared as every other."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kto_lab.errors import LabError
from kto_lab.evaluation.answers import ScoredAnswer
from kto_lab.evaluation.measuring import Metric, PolicyResults, compare, find_metrics, own_scores, summarise
from kto_lab.evaluation.metrics import refuse_taken_names
from kto_lab.statistics import paired_difference, proportion_interval

MODULE = """
from kto_lab.evaluation.measuring import Metric

def count(results):
    return {answer.prompt_id: answer.answer.count("!") for answer in results.answers}

SHOUTING = Metric("shouting", better="down", measure=count)
AGAIN = Metric("shouting", measure=count)
SPACED = Metric("shouting words", measure=count)
SILENT = Metric("silent", better="up")
TAKEN = Metric("kl", measure=count)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "metrics_of_mine.py").write_text(MODULE)
    (tmp_path / "metrics_that_break.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "metrics_of_mine"
    sys.modules.pop("metrics_of_mine", None)


def results(answers: Mapping[str, str], rewards: Mapping[str, float] | None = None) -> PolicyResults:
    rewards = rewards or {}
    return PolicyResults(
        answers=[ScoredAnswer(prompt, "g", prompt, text, 1, True) for prompt, text in answers.items()],
        prompt_ids=list(rewards),
        desirable=np.ones(len(rewards), dtype=bool),
        logps=np.array(list(rewards.values())),
        reference_logps=np.zeros(len(rewards)),
        rewards=np.array(list(rewards.values())),
    )


def scored(measure: Callable[[PolicyResults], Any], of: PolicyResults) -> dict[str, dict[str, float]]:
    return own_scores([Metric("mine", measure=measure)], of)


def test_a_metric_is_found_by_its_name(module: str) -> None:
    (found,) = find_metrics([f"{module}.SHOUTING"])
    assert (found.name, found.better) == ("shouting", "down")
    assert own_scores([found], results({"a": "Oh!!", "b": "Oh."})) == {"shouting": {"a": 2.0, "b": 0.0}}
    assert find_metrics([]) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["SHOUTING"], "names 'SHOUTING'; a name is that of a module and of a Metric in it"),
        (["metrics_of_nobody.SHOUTING"], "cannot be imported: .*Put the folder of metrics_of_nobody on PYTHONPATH"),
        (["metrics_of_mine.LOUD"], "names metrics_of_mine.LOUD, which cannot be imported"),
        (["metrics_that_break.LOUD"], "cannot be imported: division by zero"),
        (["metrics_of_mine.count"], "which is a function. It must be a kto_lab.evaluation.measuring.Metric"),
        (["metrics_of_mine.SILENT"], "which has no function"),
        (["metrics_of_mine.SPACED"], "the name 'shouting words' is not made of"),
        (["metrics_of_mine.SHOUTING", "metrics_of_mine.AGAIN"], "names two metrics called shouting"),
    ],
)
def test_a_name_that_leads_to_no_metric_is_an_error(module: str, names: list[str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        find_metrics(names)


def test_a_name_of_the_lab_s_is_taken(module: str) -> None:
    refuse_taken_names([f"{module}.SHOUTING"])
    with pytest.raises(LabError, match=r"is called kl, and so is one of the lab's\. Rename it"):
        refuse_taken_names([f"{module}.TAKEN"])


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda found: [1.0], "returns a list; it must return a mapping from prompt_id to score"),
        (lambda found: {"c": 1.0}, "scores 'c', which is no held-out prompt's prompt_id"),
        (lambda found: {"a": float("nan")}, "gives the prompt a nan, which is no finite number"),
        (lambda found: {"a": "good"}, "gives the prompt a 'good', which is no finite number"),
    ],
)
def test_what_is_no_score_is_an_error(measure: Callable[[PolicyResults], Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        scored(measure, results({"a": "Oh"}))


def test_rewards_are_scored_and_a_metric_without_scores_is_left_out() -> None:
    of = results({}, {"a": 0.5, "b": -1.0})
    assert scored(lambda found: dict(zip(found.prompt_ids, found.rewards > 0, strict=True)), of) == {
        "mine": {"a": True, "b": False}
    }
    assert scored(lambda found: {}, of) == {}


def test_yes_and_no_make_a_share_and_numbers_a_mean() -> None:
    found = summarise({"share": {"a": True, "b": False, "c": True}, "mean": {"a": 1.0, "b": 0.0, "c": 1.0}}, {})
    assert found["share"] == proportion_interval(2, 3)
    assert found["mean"].value == pytest.approx(2 / 3) and found["mean"] != found["share"]


def test_two_policies_are_compared_where_both_have_a_score_and_by_group() -> None:
    base, trained = {"mine": {"a": 1.0, "b": 2.0, "c": 5.0}}, {"mine": {"c": 7.0, "a": 4.0, "d": 9.0}}
    found = compare(base, trained, {"a": "x", "b": "x", "c": "y", "d": "y"}, {}, seed=3)
    assert (found.overall["mine"].base.value, found.overall["mine"].trained.value) == (3.0, 5.5)
    assert found.overall["mine"].difference == paired_difference([1.0, 5.0], [4.0, 7.0], seed=3)
    assert {name: part["mine"].difference.value for name, part in found.groups.items()} == {"x": 3.0, "y": 2.0}
    assert compare(base, {}, {"a": "x", "b": "x", "c": "y"}, {}, seed=3).overall == {}


def test_an_interval_stays_within_the_bounds_of_its_metric() -> None:
    # Of nearly equal scores at the end of the scale, as VADER gives answers that are all glad.
    scores = {"mine": {"a": 0.98, "b": 0.99, "c": 0.6}}
    free, kept = (summarise(scores, bounds)["mine"] for bounds in ({}, {"mine": (-1.0, 1.0)}))
    assert free.high is not None and free.high > 1 and kept.value == free.value
    assert kept.low is not None and kept.high is not None and -1 < kept.low < kept.value < kept.high <= 1
    found = compare(scores, scores, dict.fromkeys("abc", "x"), {"mine": (-1.0, 1.0)}, seed=0)
    for one in (found.overall["mine"], found.groups["x"]["mine"]):
        assert one.base == one.trained == kept


def test_a_score_outside_of_the_bounds_is_an_error() -> None:
    metric = Metric("mine", bounds=(0.0, None), measure=lambda found: {"a": -0.5})
    with pytest.raises(LabError, match=r"gives the prompt a -0\.5, which is outside of its bounds, \(0\.0, None\)"):
        own_scores([metric], results({"a": "Oh"}))
    assert own_scores([Metric("mine", bounds=(-0.5, 0.0), measure=metric.measure)], results({"a": "Oh"}))
