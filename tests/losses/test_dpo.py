import math

import pytest

from kto_lab.losses import dpo
from tests.losses.loss_cases import pair, pair_slopes, sigmoid


def test_closed_form() -> None:
    assert dpo(pair(0.0, 0.0), beta=0.4).item() == pytest.approx(math.log(2))
    assert dpo(pair(1.0, -2.0), beta=0.4).item() == pytest.approx(-math.log(sigmoid(0.4 * 3.0)))


def test_slopes() -> None:
    assert pair_slopes(dpo(batch := pair(0.0, 0.0), beta=0.4), batch) == pytest.approx((-0.2, 0.2))
    batch = pair(1.0, -2.0)
    slope = 0.4 * sigmoid(-0.4 * 3.0)
    assert pair_slopes(dpo(batch, beta=0.4), batch) == pytest.approx((-slope, slope))


def test_only_the_margin_counts() -> None:
    assert dpo(pair(11.0, 8.0), beta=0.4).item() == pytest.approx(dpo(pair(1.0, -2.0), beta=0.4).item())


def test_a_pair_ranked_far_the_other_way_pulls_with_all_its_weight() -> None:
    batch = pair(-100.0, 100.0)
    assert pair_slopes(dpo(batch, beta=0.4), batch) == pytest.approx((-0.4, 0.4))
