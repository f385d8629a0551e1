"""The contrasts of a study: what can be compared, and what a mistake in them says to write."""

from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import learn
from kto_lab.sweeps.contrasts import MOST, Choose, check_metrics, read_contrasts
from tests.sweeps.test_study import study

GOOD: dict[str, Any] = {
    "name": "kto_wins",
    "of": {"arm": "kto"},
    "against": {"arm": "dpo"},
    "where": {"corruption.rate": 0.2},
    "metric": "pass_rate",
    "expect": "greater",
}


def test_a_contrast_is_read_with_its_search() -> None:
    (found,) = read_contrasts([{**GOOD, "choose": {"over": ["loss.beta"], "by": "pass_rate"}}], "noise")
    assert found.choose == Choose(["loss.beta"], "pass_rate") and found.margin == 0
    assert study(contrasts=[GOOD]).contrasts == [GOOD]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expects": "more"}, r"contrast kto_wins: the key 'expects' is unknown. Keys are name, of, against, metric"),
        ({"expect": "more"}, "expect is 'more'. Write one of greater, less, equal"),
        ({"expect": "equal"}, "Write with `margin` which difference would not matter, such as margin: 0.05"),
        ({"margin": -1}, "margin is -1. Write a number of at least 0"),
        ({"against": {"arm": "kto"}}, "of and against are the same runs"),
        ({"against": "dpo"}, r"against is a mapping of choices to values, as {arm: kto}"),
        ({"against": {"loss.beta": 1}}, "Name the same choices in both"),
        ({"against": {"arm": "ppo"}}, r"against names arm=ppo, which no run of the study has. There are kto, dpo"),
        (
            {"where": {"corruption.rat": 0}},
            r"where names 'corruption.rat', which is no choice of this study. Choices are",
        ),
        (
            {"where": {"corruption.rate": 0.3}},
            "where names corruption.rate=0.3, which no run of the study has. There are",
        ),
        ({"choose": {"over": ["lr"], "by": "pass_rate"}}, "choose.over names 'lr', which is no choice of this study"),
        ({"metric": "kl"}, "contrast kto_wins: of kl neither more nor less is better.*show kl in a table"),
        ({"metric": "groups.title.answer_length"}, "neither more nor less is better"),
        (
            {"choose": {"over": ["loss.beta"], "by": "answer_length"}},
            "contrast kto_wins: choose.by is 'answer_length', of which neither more nor less is better. Choose by one",
        ),
        ({"choose": {"by": "kl"}}, "contrast kto_wins, choose: the key 'over' is missing"),
    ],
)
def test_a_mistake_is_found_before_a_run_and_says_what_to_write(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        study(contrasts=[{**GOOD, **changes}])


@pytest.mark.parametrize("kind", ["tables", "figures"])
def test_a_table_or_figure_cannot_choose_by_a_metric_without_scores_of_prompts(kind: str) -> None:
    found = {"name": "best", "choose": {"over": ["loss.beta"], "by": "reward_auc"}}
    with pytest.raises(LabError, match=f"{kind[:-1]} best: choose.by is 'reward_auc', which has no score for each"):
        study(**{kind: [found]})
    # At one scale alone it is exchanged.
    by_another = {"name": "best", "choose": {"over": ["loss.beta"], "by": "pass_rate"}}
    with pytest.raises(LabError, match=r"choose\.by is 'kl'"):
        study(**{kind: [by_another]}, scales={"paper": {"metrics": {"pass_rate": "kl"}}})


def test_what_the_lab_does_not_declare_is_left_to_those_who_do(nothing_learned: None) -> None:
    unknown = [{**GOOD, "metric": "hellaswag.acc", "choose": {"over": ["loss.beta"], "by": "shouting"}}]
    assert check_metrics({"contrasts": unknown}, "noise") == ["hellaswag.acc", "shouting"]
    learn([{"shouting": {"about": "it has no better side"}}])
    with pytest.raises(LabError, match=r"choose\.by is 'shouting', of which neither more nor less is better"):
        check_metrics({"contrasts": unknown}, "noise")


def test_no_two_have_one_name_and_there_are_few() -> None:
    with pytest.raises(LabError, match=r"two are called kto_wins\. Give one another name"):
        study(contrasts=[GOOD, GOOD])
    with pytest.raises(LabError, match=f"has {MOST + 1}. Name at most {MOST}: each makes all others harder to show"):
        study(contrasts=[{**GOOD, "name": f"c{number}"} for number in range(MOST + 1)])
    with pytest.raises(LabError, match="the key 'metric' is missing"):
        study(contrasts=[{key: value for key, value in GOOD.items() if key != "metric"}])
    with pytest.raises(LabError, match="is a list; each has the keys name, of, against, metric and expect"):
        study(contrasts=GOOD)


def test_values_that_only_a_scale_has_are_known() -> None:
    scales = {"tiny": {"arms": {"dpo": ["loss.beta=1,2"]}}}
    one = {**GOOD, "of": {"loss.beta": 2}, "against": {"loss.beta": 1}, "where": {"arm": "dpo"}}
    assert study(contrasts=[one], scales=scales).contrasts
    with pytest.raises(LabError, match=r"of names loss.beta=2, which no run of the study has. There are 0.1, 0.2"):
        study(contrasts=[one])
