import math

import pytest

from kto_lab.errors import LabError
from kto_lab.losses import cdpo, dpo
from tests.losses.loss_cases import pair, pair_slopes, sigmoid


def test_closed_form() -> None:
    assert cdpo(pair(0.0, 0.0), beta=0.4, flip_rate=0.2).item() == pytest.approx(math.log(2))
    wanted = -0.8 * math.log(sigmoid(1.2)) - 0.2 * math.log(sigmoid(-1.2))
    assert cdpo(pair(1.0, -2.0), beta=0.4, flip_rate=0.2).item() == pytest.approx(wanted)


def test_slopes() -> None:
    batch = pair(1.0, -2.0)
    slope = 0.4 * (sigmoid(1.2) - 0.8)
    assert pair_slopes(cdpo(batch, beta=0.4, flip_rate=0.2), batch) == pytest.approx((slope, -slope))


def test_its_minimum_is_where_the_margin_is_the_log_odds_of_a_right_order() -> None:
    margin = math.log(0.8 / 0.2) / 0.4
    batch = pair(margin, 0.0)
    assert pair_slopes(cdpo(batch, beta=0.4, flip_rate=0.2), batch) == pytest.approx((0.0, 0.0), abs=1e-12)
    # At any other margin, such as these, the loss is larger.
    least = cdpo(batch, beta=0.4, flip_rate=0.2).item()
    assert all(cdpo(pair(margin + off, 0.0), beta=0.4, flip_rate=0.2).item() > least for off in (-1.0, 1.0))


def test_without_flips_it_is_dpo() -> None:
    assert cdpo(pair(1.0, -2.0), beta=0.4, flip_rate=0.0).item() == dpo(pair(1.0, -2.0), beta=0.4).item()


@pytest.mark.parametrize("rate", [-0.1, 0.5, 1.0, math.nan])
def test_impossible_flip_rates_are_refused(rate: float) -> None:
    with pytest.raises(LabError, match=r"loss\.flip_rate"):
        cdpo(pair(1.0, 0.0), beta=0.1, flip_rate=rate)
