import math

import pytest

from kto_lab.errors import LabError
from kto_lab.losses import dpo, holder_dpo
from tests.losses.loss_cases import pair, pair_slopes, sigmoid


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 8.0])
def test_closed_form(gamma: float) -> None:
    at_start = (gamma / 2 - 1 - gamma) / 2**gamma
    assert holder_dpo(pair(0.0, 0.0), beta=0.4, gamma=gamma).item() == pytest.approx(at_start)
    share = sigmoid(0.4 * 3.0)
    wanted = gamma * share ** (1 + gamma) - (1 + gamma) * share**gamma
    assert holder_dpo(pair(1.0, -2.0), beta=0.4, gamma=gamma).item() == pytest.approx(wanted)
    assert holder_dpo(pair(500.0, -500.0), beta=0.4, gamma=gamma).item() == pytest.approx(-1.0)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_slopes(gamma: float) -> None:
    batch = pair(1.0, -2.0)
    share = sigmoid(0.4 * 3.0)
    slope = -0.4 * gamma * (1 + gamma) * share**gamma * (1 - share) ** 2
    assert pair_slopes(holder_dpo(batch, beta=0.4, gamma=gamma), batch) == pytest.approx((slope, -slope))


def pull(margin: float, gamma: float) -> float:
    """How hard a pair with this margin of implicit rewards is pulled apart."""
    batch = pair(margin, 0.0)
    return -pair_slopes(holder_dpo(batch, beta=1.0, gamma=gamma), batch)[0]


@pytest.mark.parametrize("gamma", [0.5, 2.0, 4.0])
def test_it_redescends(gamma: float) -> None:
    # The pull is largest where s / (1 - s) = gamma / 2, and falls to nothing on both sides.
    peak = math.log(gamma / 2)
    assert pull(peak, gamma) > max(pull(peak - 0.1, gamma), pull(peak + 0.1, gamma))
    left = [pull(peak - distance, gamma) for distance in (0, 1, 3, 10, 40)]
    right = [pull(peak + distance, gamma) for distance in (0, 1, 3, 10, 40)]
    for side in (left, right):
        assert side == sorted(side, reverse=True) and 0 <= side[-1] < 1e-7 * side[0]


def test_dpo_does_not() -> None:
    batch = pair(-40.0, 0.0)
    assert -pair_slopes(dpo(batch, beta=1.0), batch)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan])
def test_gamma_must_be_positive(gamma: float) -> None:
    with pytest.raises(LabError, match=r"loss\.gamma"):
        holder_dpo(pair(0.0, 0.0), beta=0.1, gamma=gamma)
