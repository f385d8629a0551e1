"""The contrasts of a study: what can be compared, and what a mistake in them says to write."""

from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.sweeps.contrasts import MOST, Choose, read_contrasts
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
        ({"choose": {"over": ["lr"], "by": "kl"}}, "choose.over names 'lr', which is no choice of this study"),
        ({"choose": {"by": "kl"}}, "contrast kto_wins, choose: the key 'over' is missing"),
    ],
)
def test_a_mistake_is_found_before_a_run_and_says_what_to_write(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        study(contrasts=[{**GOOD, **changes}])


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
