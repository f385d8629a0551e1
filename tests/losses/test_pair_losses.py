"""Losses of pairs against closed forms, finite differences, and what they promise under noise."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.losses import Pairs, apo_down, apo_zero, cdpo, dpo, hinge, ipo, rdpo

LOSSES = {
    "dpo": partial(dpo, beta=0.4),
    "ipo": partial(ipo, beta=0.4),
    "cdpo": partial(cdpo, beta=0.4, flip_rate=0.2),
    "rdpo": partial(rdpo, beta=0.4, flip_rate=0.2),
    "hinge": partial(hinge, beta=0.4),
    "apo_zero": partial(apo_zero, beta=0.4),
    "apo_down": partial(apo_down, beta=0.4),
}


def pairs(chosen: float, rejected: float) -> Pairs:
    """One pair with these log-ratios."""
    zero = torch.zeros(1, dtype=torch.float64)
    return Pairs(zero + chosen, zero + rejected, zero, zero)


def sigmoid(u: float) -> float:
    return 1 / (1 + math.exp(-u))


@pytest.mark.parametrize(
    ("name", "at_start", "elsewhere"),
    [
        ("dpo", math.log(2), -math.log(sigmoid(0.4 * 3.0))),
        ("ipo", 1 / (4 * 0.4**2), (3.0 - 1.25) ** 2),
        ("cdpo", math.log(2), -0.8 * math.log(sigmoid(1.2)) - 0.2 * math.log(sigmoid(-1.2))),
        ("rdpo", math.log(2), (-0.8 * math.log(sigmoid(1.2)) + 0.2 * math.log(sigmoid(-1.2))) / 0.6),
        ("hinge", 1.0, 0.0),
        ("apo_zero", 1.0, sigmoid(-0.4 * 1.0) + sigmoid(-0.4 * 2.0)),
        ("apo_down", 1.0, sigmoid(0.4 * 1.0) + sigmoid(-0.4 * 3.0)),
    ],
)
def test_closed_forms(name: str, at_start: float, elsewhere: float) -> None:
    assert LOSSES[name](pairs(0.0, 0.0)).item() == pytest.approx(at_start)
    assert LOSSES[name](pairs(1.0, -2.0)).item() == pytest.approx(elsewhere)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_against_finite_differences(loss: Callable[[Pairs], Tensor]) -> None:
    torch.manual_seed(0)
    values = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: loss(Pairs(*v)), values)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_logratios_stay_finite(loss: Callable[[Pairs], Tensor], extreme: float) -> None:
    values = torch.tensor([[extreme], [-extreme], [0.0], [0.0]], requires_grad=True)
    losses = loss(Pairs(*values))
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(values.grad).all()


def test_robust_dpo_is_unbiased_under_swaps() -> None:
    right, swapped = pairs(1.0, -2.0), pairs(-2.0, 1.0)
    for rate in (0.0, 0.1, 0.4):
        mean = (1 - rate) * rdpo(right, beta=0.4, flip_rate=rate) + rate * rdpo(swapped, beta=0.4, flip_rate=rate)
        assert mean.item() == pytest.approx(dpo(right, beta=0.4).item())


@pytest.mark.parametrize("loss", [cdpo, rdpo])
@pytest.mark.parametrize("rate", [-0.1, 0.5, 1.0])
def test_impossible_flip_rates_are_refused(loss: Callable[..., Tensor], rate: float) -> None:
    with pytest.raises(LabError, match="flip_rate"):
        loss(pairs(1.0, 0.0), beta=0.1, flip_rate=rate)
