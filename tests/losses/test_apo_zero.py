import pytest

from kto_lab.losses import apo_zero, apo_zero_unpaired
from tests.losses.loss_cases import pair, pair_slopes, sigmoid, thumbs


def test_closed_form() -> None:
    assert apo_zero(pair(0.0, 0.0), beta=0.4).item() == pytest.approx(1.0)
    assert apo_zero(pair(1.0, -2.0), beta=0.4).item() == pytest.approx((1 - sigmoid(0.4)) + sigmoid(-0.8))


def test_the_chosen_goes_up_and_the_rejected_down_each_by_itself() -> None:
    batch = pair(1.0, -2.0)
    chosen, rejected = pair_slopes(apo_zero(batch, beta=0.4), batch)
    assert chosen == pytest.approx(-0.4 * sigmoid(0.4) * sigmoid(-0.4))
    assert rejected == pytest.approx(0.4 * sigmoid(0.8) * sigmoid(-0.8))


def test_it_is_the_sum_over_the_two_thumbs_of_the_pair() -> None:
    both = apo_zero_unpaired(thumbs([3.0, 1.5], [True, False]), beta=0.4).sum().item()
    assert apo_zero(pair(3.0, 1.5), beta=0.4).item() == pytest.approx(both)
