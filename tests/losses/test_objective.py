from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.losses import Controls, Feed, FlipRates, build, kto
from kto_lab.losses.reference_points import Batch, Completions, Matched, Zero
from kto_lab.losses.values import logistic
from kto_lab.losses.weighting import Fixed
from tests.losses.loss_cases import pair, thumbs

KTO = {
    "function": "kto_lab.losses.kto",
    "beta": 0.2,
    "value": logistic,
    "reference_point": Batch(),
    "weighting": Fixed(),
}
SFT = {"function": "kto_lab.losses.sft", "reward_beta": 0.1}
DPO = {"function": "kto_lab.losses.dpo", "beta": 0.2}


def test_it_is_the_loss_with_its_parameters() -> None:
    made = build(**KTO)
    batch = thumbs([1.0, -2.0], [True, False])
    assert made.losses(batch).tolist() == kto(batch, beta=0.2, value=logistic).tolist()
    assert (made.name, made.needs.feed, made.compared_to) == ("kto", Feed.THUMBS, Completions.MISMATCHED)
    assert (made.reference_point, made.weighting) == (Batch(), Fixed())


def test_rewards_are_scaled_by_beta_unless_said_otherwise() -> None:
    assert build(**KTO).reward_beta == 0.2
    assert build(**KTO, reward_beta=0.5).reward_beta == 0.5
    assert build(**SFT).reward_beta == 0.1


def test_what_the_reference_point_is_estimated_from() -> None:
    assert build(**{**KTO, "reference_point": Matched()}).compared_to is Completions.MATCHED
    assert build(**{**KTO, "reference_point": Zero()}).compared_to is Completions.NONE
    assert build(**DPO).compared_to is Completions.NONE


def test_a_measured_flip_rate_is_told_later() -> None:
    robust = {"function": "kto_lab.losses.rdpo", "beta": 0.2}
    waiting = build(**robust, flip_rate="measured")
    told, batch = waiting.told(0.2), pair(1.0, -2.0)
    assert waiting.measured and not told.measured
    assert told.losses(batch).tolist() == build(**robust, flip_rate=0.2).losses(batch).tolist()
    with pytest.raises(LabError, match=r"loss\.flip_rate is 0\.5"):
        waiting.told(0.5)
    with pytest.raises(LabError, match="flip_rate"):
        build(**DPO, flip_rate="measured")


def test_flip_rates_reach_the_loss_and_the_objective() -> None:
    rates = FlipRates(0.1, 0.3)
    made = build(**{**KTO, "function": "kto_lab.losses.kto_robust"}, flip_rates=rates)
    batch = thumbs([1.0, -2.0], [True, False])
    assert made.flip_rates == rates and made.losses(batch).tolist() != build(**KTO).losses(batch).tolist()


@pytest.mark.parametrize(
    ("good", "change", "words"),
    [
        (KTO, {"function": "kto_lab.losses.nothing"}, "cannot be imported"),
        (KTO, {"function": "no_such_package.loss"}, "cannot be imported"),
        (KTO, {"function": "math.sqrt"}, "does not declare"),
        (KTO, {"reference_point": None}, r"kto needs loss\.reference_point"),
        (KTO, {"weighting": None}, r"kto needs loss\.weighting"),
        (KTO, {"controls": Controls("+", "-")}, r"kto takes no loss\.controls"),
        (DPO, {"reference_point": Zero()}, r"dpo takes no loss\.reference_point"),
        (DPO, {"weighting": Fixed()}, r"dpo takes no loss\.weighting"),
        (SFT, {"function": "kto_lab.losses.csft"}, r"csft needs loss\.controls"),
        (KTO, {"beta": 0.0}, r"loss\.beta is 0\.0"),
        (KTO, {"beta": float("nan")}, r"loss\.beta is nan"),
        (KTO, {"reward_beta": -1.0}, r"loss\.reward_beta is -1"),
        (SFT, {"reward_beta": None}, r"loss\.reward_beta is not set"),
        (KTO, {"beta": None, "reward_beta": 0.1}, "'beta'"),
        (SFT, {"beta": 0.1}, "unexpected.*'beta'"),
        (KTO, {"gamma": 1.0}, "unexpected.*'gamma'"),
        (KTO, {"flip_rates": FlipRates(0.1, 0.1)}, "unexpected.*'flip_rates'"),
        (KTO, {"function": "kto_lab.losses.kto_robust"}, "missing.*'flip_rates'"),
        (DPO, {"function": "kto_lab.losses.rdpo"}, "missing.*'flip_rate'"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_does_not_fit_is_named(good: dict[str, Any], change: dict[str, Any], words: str) -> None:
    build(**good)
    with pytest.raises(LabError, match=words):
        build(**{**good, **change})
