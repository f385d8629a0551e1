"""What to set for given rates."""

import pytest
from small_runs import composed

from kto_lab.auditing.advice import NOTHING_BELOW, advise, surest
from kto_lab.auditing.rates import Rates
from kto_lab.evaluation.statistics import Estimate
from kto_lab.losses import FlipRates
from kto_lab.losses.noise import clean_counts, effective_weights
from kto_lab.losses.weighting import Weights


def rates(down: float, up: float, *, half: float = 0.02, method: str = "noise_aware") -> Rates:
    return Rates(method, *(Estimate(rate, max(rate - half, 0.0), rate + half, 100) for rate in (down, up)))


def test_low_rates_change_nothing() -> None:
    (item,) = advise(rates(NOTHING_BELOW - 0.01, 0.01), 500, 500)
    assert item.override == "" and "bear" in item.text


def test_rates_that_are_not_known_change_nothing() -> None:
    for unknown in (rates(0.2, 0.2, half=0.2), Rates("noise_aware", *[Estimate(None, None, None, 3)] * 2)):
        (item,) = advise(unknown, 500, 500)
        assert item.override == "" and "cannot tell" in item.text


def test_rates_that_cannot_be_change_nothing() -> None:
    (item,) = advise(rates(0.1, 0.4), 100, 900)
    assert item.override == "" and "do not fit" in item.text


def test_every_override_composes_and_is_what_the_rates_ask_for() -> None:
    advice = advise(rates(0.1, 0.25), 500, 500)
    words = [item.override for item in advice if item.override]
    assert len(words) == 3
    robust, weighted, pairs = (composed(override.split()).loss for override in words)
    assert (robust.flip_rates.desirable, robust.flip_rates.undesirable) == (0.1, 0.25)
    # Of the true classes the weights are those of balanced, target 1.25.
    seen = Weights(weighted.weighting.lambda_desirable, weighted.weighting.lambda_undesirable)
    true = effective_weights(seen, FlipRates(0.1, 0.25))
    desirable, undesirable = clean_counts(500, 500, FlipRates(0.1, 0.25))
    assert true.desirable * desirable / (true.undesirable * undesirable) == pytest.approx(1.25, rel=1e-3)
    # 25 % of the truly bad have a thumb up, and 10 % of the truly good one down.
    expected = (0.25 * undesirable / 500 + 0.1 * desirable / 500) / 2
    assert pairs.flip_rate == pytest.approx(expected, abs=1e-3)


def test_even_noise_at_even_weights_leaves_kto_as_it_is() -> None:
    even, *_ = advise(rates(0.2, 0.2), 555, 445)
    assert even.about == "loss=kto" and "Nothing has to be set" in even.text
    uneven, *_ = advise(rates(0.05, 0.3), 555, 445)
    assert "Correct it" in uneven.text
    # Few thumbs up, weighed up: the class that weighs less bears little.
    inverted, *_ = advise(rates(0.02, 0.13), 150, 850)
    assert "wrong way" in inverted.text


def test_the_estimate_that_is_known_more_closely_is_acted_on() -> None:
    wide, close = rates(0.1, 0.1, half=0.1), rates(0.2, 0.2, half=0.05, method="reviewed")
    other = rates(0.3, 0.3, half=0.001, method="confident_learning")
    assert surest([wide, other, close]) is close and surest([wide, other]) is wide
