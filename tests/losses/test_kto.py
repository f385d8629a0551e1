import math
from collections.abc import Callable

import pytest
import torch

from kto_lab.losses import Thumbs, kto
from kto_lab.losses.values import concave, logistic
from tests.losses.loss_cases import VALUES, sigmoid, slopes, thumbs

BOTH = [True, False]


def test_at_policy_equal_reference_it_is_half_the_weight() -> None:
    assert kto(thumbs([0.0, 0.0], BOTH, up=1.5, down=0.5), beta=0.1, value=logistic).tolist() == [0.75, 0.25]


def power_plainly(u: float) -> float:
    size = (abs(u) + 0.01) ** 0.88 - 0.01**0.88
    return size if u >= 0 else -2.25 * size


@pytest.mark.parametrize(
    ("value", "plainly"),
    [
        ("logistic", sigmoid),
        ("concave", lambda u: 1 + math.log(sigmoid(u))),
        ("identity", lambda u: u),
        ("power", power_plainly),
    ],
)
def test_closed_form(value: str, plainly: Callable[[float], float]) -> None:
    losses = kto(thumbs([1.0, -3.0], BOTH, z0=0.5, up=2.0, down=3.0), beta=0.3, value=VALUES[value])
    wanted = [2.0 * (1 - plainly(0.3 * (1.0 - 0.5))), 3.0 * (1 - plainly(0.3 * (0.5 + 3.0)))]
    assert losses.tolist() == pytest.approx(wanted, rel=1e-12)


def test_gradient_is_equation_9() -> None:
    batch = thumbs([1.0, -3.0], BOTH, z0=0.5, up=2.0, down=3.0)
    found = slopes(kto(batch, beta=0.3, value=logistic), batch)
    up, down = 0.3 * (1.0 - 0.5), 0.3 * (-3.0 - 0.5)
    assert found == pytest.approx(
        [
            -2.0 * 0.3 * sigmoid(up) * sigmoid(-up),
            3.0 * 0.3 * sigmoid(down) * sigmoid(-down),
        ]
    )


@pytest.mark.parametrize("value", VALUES)
def test_desirable_goes_up_and_undesirable_down_wherever_they_are(value: str) -> None:
    batch = thumbs([-6.0, 0.0, 6.0] * 2, [True] * 3 + [False] * 3, z0=0.7)
    found = slopes(kto(batch, beta=0.5, value=VALUES[value]), batch)
    assert max(found[:3]) < 0 < min(found[3:])


def test_the_logistic_lets_go_of_outliers_on_both_sides_and_the_concave_only_of_gains() -> None:
    batch = thumbs([-200.0, 0.0, 200.0], [True] * 3)
    far_below, middle, far_above = slopes(kto(batch, beta=0.1, value=logistic), batch)
    assert abs(far_below) < 1e-8 > abs(far_above) and middle == pytest.approx(-0.1 / 4)
    far_below, middle, far_above = slopes(kto(batch, beta=0.1, value=concave), batch)
    assert far_below == pytest.approx(-0.1) and middle == pytest.approx(-0.1 / 2) and abs(far_above) < 1e-8


def test_loss_aversion_by_sign_is_not_that_by_label() -> None:
    def averse(u: torch.Tensor) -> torch.Tensor:
        return logistic(u, loss_aversion=2.0)

    # A gain and a loss of each class: what weighs double is the loss, whatever its thumb.
    batch = thumbs([4.0, -4.0, -4.0, 4.0], [True, True, False, False])
    plain, felt = (torch.tensor(slopes(kto(batch, beta=0.3, value=v), batch)) for v in (logistic, averse))
    assert (felt / plain).tolist() == pytest.approx([1.0, 2.0, 1.0, 2.0])


def test_each_unit_has_the_reference_point_of_its_group() -> None:
    grouped = thumbs([1.0, 1.0, -2.0, -2.0], [True, True, False, False])
    grouped = Thumbs(grouped.policy, grouped.reference, grouped.desirable, z0=torch.tensor([0.0, 2.0, 0.0, 2.0]))
    found = kto(grouped, beta=0.3, value=logistic).tolist()
    assert found == pytest.approx([sigmoid(-0.3 * u) for u in (1.0, -1.0, 2.0, 4.0)])
