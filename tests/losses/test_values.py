import math
from functools import partial

import pytest
import torch
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.losses.values import concave, identity, logistic, power
from tests.losses.loss_cases import VALUES, ValueFunction, sigmoid

AROUND_ZERO = torch.linspace(-5, 5, 41, dtype=torch.float64)


def slopes(v: ValueFunction, u: Tensor) -> Tensor:
    leaf = u.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(v(leaf).sum(), leaf)
    return gradient


def test_closed_forms() -> None:
    u = [-3.0, -0.5, 0.0, 2.0]
    at = torch.tensor(u, dtype=torch.float64)
    assert logistic(at).tolist() == pytest.approx([sigmoid(x) for x in u])
    assert concave(at).tolist() == pytest.approx([1 + math.log(sigmoid(x)) for x in u])
    assert identity(at).tolist() == u
    gains = [(x + 0.2) ** 0.5 - 0.2**0.5 for x in (0.0, 2.0)]
    losses = [-3.0 * ((0.2 + x) ** 0.5 - 0.2**0.5) for x in (3.0, 0.5)]
    found = power(at, alpha=0.5, loss_aversion=3.0, smoothing=0.2)
    assert found.tolist() == pytest.approx([*losses, *gains])


def test_the_symmetric_ones_are_the_logistic_and_the_identity() -> None:
    spread = {name: (v(AROUND_ZERO) + v(-AROUND_ZERO)).std().item() for name, v in VALUES.items()}
    assert spread["logistic"] < 1e-12 > spread["identity"]
    assert min(spread["concave"], spread["power"]) > 0.1
    averse = partial(logistic, loss_aversion=2.0)
    assert (averse(AROUND_ZERO) + averse(-AROUND_ZERO)).std() > 0.1


def test_the_curves_bend_as_they_say() -> None:
    def bends(v: ValueFunction, u: Tensor) -> Tensor:
        return slopes(v, u).diff()

    gains, losses = AROUND_ZERO[AROUND_ZERO > 0], AROUND_ZERO[AROUND_ZERO < 0]
    for v in (logistic, power):
        assert (bends(v, gains) < 0).all() and (bends(v, losses) > 0).all()
    assert (bends(concave, AROUND_ZERO) < 0).all()


def test_power_with_alpha_1_and_no_aversion_is_the_identity() -> None:
    found = power(AROUND_ZERO, alpha=1.0, loss_aversion=1.0, smoothing=0.3)
    torch.testing.assert_close(found, AROUND_ZERO, rtol=1e-12, atol=1e-12)


def test_power_at_zero_has_the_slope_of_its_docstring_on_each_side() -> None:
    u = torch.tensor([-1e-9, 0.0, 1e-9], dtype=torch.float64)
    slope = 0.88 * 0.01 ** (0.88 - 1)
    assert slope == pytest.approx(1.53, abs=0.005)
    assert slopes(power, u).tolist() == pytest.approx([2.25 * slope, slope, slope], rel=1e-6)
    assert power(u).tolist() == pytest.approx([0.0] * 3, abs=1e-8)


def test_power_far_from_zero_is_kahneman_and_tverskys() -> None:
    u = torch.tensor([-1e4, 1e4], dtype=torch.float64)
    assert power(u).tolist() == pytest.approx([-2.25 * 1e4**0.88, 1e4**0.88], rel=1e-3)


@pytest.mark.parametrize("alpha", [0.3, 0.88, 1.0, 1.7])
def test_the_slopes_of_power_are_those_of_finite_differences(alpha: float) -> None:
    u = torch.tensor([-6.0, -0.3, -0.004, 0.002, 0.3, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(partial(power, alpha=alpha), u)


@pytest.mark.parametrize("alpha", [0.3, 0.88])
def test_power_stays_finite_in_float32(alpha: float) -> None:
    u = torch.tensor([-1e4, -1e-30, 0.0, -0.0, 1e-30, 1e4])
    assert torch.isfinite(power(u, alpha=alpha)).all() and torch.isfinite(slopes(partial(power, alpha=alpha), u)).all()


@pytest.mark.parametrize("v", [logistic, concave, identity], ids=lambda v: v.__name__)
def test_loss_aversion_stretches_losses_alone_and_leaves_no_step(v: ValueFunction) -> None:
    averse = partial(v, loss_aversion=2.25)
    losses, gains = AROUND_ZERO[AROUND_ZERO < 0], AROUND_ZERO[AROUND_ZERO >= 0]
    assert torch.equal(averse(gains), v(gains)) and torch.equal(slopes(averse, gains), slopes(v, gains))
    torch.testing.assert_close(slopes(averse, losses), 2.25 * slopes(v, losses))
    zero = torch.zeros(1, dtype=torch.float64)
    torch.testing.assert_close(averse(losses) - v(zero), 2.25 * (v(losses) - v(zero)))
    below, at = averse(torch.tensor([-1e-9, 0.0], dtype=torch.float64)).tolist()
    assert below == pytest.approx(at, abs=1e-8)


@pytest.mark.parametrize("v", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("aversion", [0.0, -1.0, math.nan])
def test_loss_aversion_must_be_positive(v: ValueFunction, aversion: float) -> None:
    with pytest.raises(LabError, match="loss_aversion"):
        v(AROUND_ZERO, loss_aversion=aversion)  # type: ignore[call-arg]


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"alpha": -0.5}, {"smoothing": 0.0}, {"smoothing": math.nan}], ids=str)
def test_power_refuses_what_is_not_positive(bad: dict[str, float]) -> None:
    with pytest.raises(LabError, match=r"alpha is .* and smoothing"):
        power(AROUND_ZERO, **bad)
