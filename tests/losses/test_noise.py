import itertools
import math

import pytest
import torch

from kto_lab.errors import LabError
from kto_lab.losses import kto
from kto_lab.losses.noise import (
    FlipRates,
    clean_counts,
    effective_weights,
    inversion_rates,
    inversion_warnings,
    robust_weights,
)
from kto_lab.losses.values import concave, identity, logistic
from kto_lab.losses.weighting import Weights
from tests.losses.loss_cases import ValueFunction, thumbs

WEIGHTS = [Weights(1.0, 1.0), Weights(13.33, 1.0), Weights(0.5, 2.0)]
RATES = [FlipRates(0.0, 0.0), FlipRates(0.2, 0.2), FlipRates(0.05, 0.4), FlipRates(0.6, 0.1)]
TRUTH = [True, False, True, False]

each = pytest.mark.parametrize(
    ("weights", "rates"),
    list(itertools.product(WEIGHTS, RATES)),
    ids=lambda part: f"{part.desirable}-{part.undesirable}",
)


def gradient(weights: Weights, labels: list[bool], value: ValueFunction) -> torch.Tensor:
    """Of KTO's loss on four completions at a fixed reference point."""
    batch = thumbs([-6.0, -0.5, 2.0, 9.0], labels, z0=1.2, up=weights.desirable, down=weights.undesirable)
    (found,) = torch.autograd.grad(kto(batch, beta=0.3, value=value).sum(), batch.policy)
    return found


def expected(weights: Weights, rates: FlipRates, value: ValueFunction) -> torch.Tensor:
    """The mean of that gradient over all 16 ways in which thumbs can flip."""
    mean = torch.zeros(4, dtype=torch.float64)
    for flips in itertools.product([False, True], repeat=4):
        chance = 1.0
        for up, flip in zip(TRUTH, flips, strict=True):
            rate = rates.desirable if up else rates.undesirable
            chance *= rate if flip else 1 - rate
        mean += chance * gradient(weights, [up ^ flip for up, flip in zip(TRUTH, flips, strict=True)], value)
    return mean


@each
@pytest.mark.parametrize("value", [logistic, identity], ids=lambda v: v.__name__)
def test_flips_give_the_gradient_of_the_true_thumbs_with_the_effective_weights(
    weights: Weights, rates: FlipRates, value: ValueFunction
) -> None:
    wanted = gradient(effective_weights(weights, rates), TRUTH, value)
    torch.testing.assert_close(expected(weights, rates, value), wanted, rtol=1e-12, atol=1e-12)


def test_for_the_concave_value_function_they_do_not() -> None:
    rates = FlipRates(0.2, 0.2)
    found = expected(WEIGHTS[0], rates, concave)
    wanted = gradient(effective_weights(WEIGHTS[0], rates), TRUTH, concave)
    assert (found - wanted).norm() > 0.1 * wanted.norm()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.49])
def test_at_equal_weights_and_rates_the_gradient_shrinks_alike(rate: float) -> None:
    found = effective_weights(Weights(1.5, 1.5), FlipRates(rate, rate))
    assert (found.desirable, found.undesirable) == pytest.approx((1.5 * (1 - 2 * rate),) * 2)


def test_the_lighter_class_inverts_at_seven_percent_when_the_other_weighs_13_33_times_as_much() -> None:
    weights = Weights(13.33, 1.0)
    up, down = inversion_rates(weights)
    assert down == pytest.approx(1 / 14.33) == pytest.approx(0.0698, abs=5e-5)
    assert up == pytest.approx(13.33 / 14.33)
    assert inversion_rates(Weights(1.0, 13.33)) == (down, up)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_the_gradient_changes_its_sign_at_the_inversion_rate(weights: Weights) -> None:
    for place, limit in enumerate(inversion_rates(weights)):
        for off, sign in ((-1e-3, 1), (1e-3, -1)):
            rates = FlipRates(limit + off, 0.0) if place == 0 else FlipRates(0.0, limit + off)
            found = effective_weights(weights, rates)
            assert math.copysign(1, (found.desirable, found.undesirable)[place]) == sign


def test_the_warnings_name_the_class_its_rate_and_its_limit() -> None:
    (warning,) = inversion_warnings(Weights(13.33, 1.0), FlipRates(0.08, 0.08))
    assert "truly undesirable" in warning and "8.0%" in warning and "7.0%" in warning and "13.3" in warning
    (warning,) = inversion_warnings(Weights(1.0, 13.33), FlipRates(0.08, 0.08))
    assert "truly desirable" in warning
    assert inversion_warnings(Weights(13.33, 1.0), FlipRates(0.069, 0.069)) == []
    assert inversion_warnings(Weights(1.0, 1.0), FlipRates(0.49, 0.49)) == []


@each
def test_robust_weights_are_what_effective_weights_takes_back(weights: Weights, rates: FlipRates) -> None:
    robust = robust_weights(weights, rates)
    back = effective_weights(robust, rates)
    assert (back.desirable, back.undesirable) == pytest.approx((weights.desirable, weights.undesirable))
    assert inversion_warnings(robust, rates) == []


@pytest.mark.parametrize(
    "rates", [(-0.1, 0.2), (0.2, -0.1), (1.0, 0.0), (0.5, 0.5), (0.7, 0.4), (math.nan, 0.1)], ids=str
)
def test_impossible_flip_rates_are_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(LabError, match="The flip rates are"):
        FlipRates(*rates)


@pytest.mark.parametrize("rates", RATES, ids=str)
@pytest.mark.parametrize("truly", [(100, 900), (500, 500), (999, 1)], ids=str)
def test_clean_counts_undo_the_flips(truly: tuple[int, int], rates: FlipRates) -> None:
    up, down = truly
    seen_up = (1 - rates.desirable) * up + rates.undesirable * down
    found = clean_counts(seen_up, up + down - seen_up, rates)  # type: ignore[arg-type]
    assert found == pytest.approx(truly)


@pytest.mark.parametrize(("up", "rates"), [(50, (0.0, 0.1)), (100, (0.0, 0.1)), (980, (0.1, 0.0))])
def test_counts_that_the_flips_cannot_leave_are_refused(up: int, rates: tuple[float, float]) -> None:
    with pytest.raises(LabError, match="do not fit"):
        clean_counts(up, 1000 - up, FlipRates(*rates))
