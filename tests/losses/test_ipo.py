import pytest

from kto_lab.losses import ipo
from tests.losses.loss_cases import pair, pair_slopes


def test_closed_form() -> None:
    assert ipo(pair(0.0, 0.0), beta=0.4).item() == pytest.approx(1 / (4 * 0.4**2))
    assert ipo(pair(1.0, -2.0), beta=0.4).item() == pytest.approx((3.0 - 1.25) ** 2)


def test_its_minimum_is_at_a_margin_of_one_over_two_beta() -> None:
    batch = pair(1.0, -0.25)
    loss = ipo(batch, beta=0.4)
    assert loss.item() == pytest.approx(0, abs=1e-20)
    assert pair_slopes(loss, batch) == pytest.approx((0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize(("chosen", "slope"), [(0.0, -2 * 1.25), (1.0, -2 * 0.25), (2.0, 2 * 0.75)])
def test_it_pulls_towards_that_margin_from_both_sides(chosen: float, slope: float) -> None:
    batch = pair(chosen, 0.0)
    assert pair_slopes(ipo(batch, beta=0.4), batch) == pytest.approx((slope, -slope))
