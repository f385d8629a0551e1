import pytest

from kto_lab.losses import apo_down
from tests.losses.loss_cases import pair, pair_slopes, sigmoid


def test_closed_form() -> None:
    assert apo_down(pair(0.0, 0.0), beta=0.4).item() == pytest.approx(1.0)
    assert apo_down(pair(1.0, -2.0), beta=0.4).item() == pytest.approx(sigmoid(0.4) + (1 - sigmoid(0.4 * 3.0)))


def test_slopes() -> None:
    batch = pair(1.0, -2.0)
    own, margin = (0.4 * sigmoid(u) * sigmoid(-u) for u in (0.4, 1.2))
    assert pair_slopes(apo_down(batch, beta=0.4), batch) == pytest.approx((own - margin, margin))


def test_at_the_start_only_the_rejected_is_moved_and_later_both_go_down() -> None:
    start = pair(0.0, 0.0)
    assert pair_slopes(apo_down(start, beta=0.4), start) == pytest.approx((0.0, 0.1), abs=1e-12)
    later = pair(0.0, -5.0)
    chosen, rejected = pair_slopes(apo_down(later, beta=0.4), later)
    assert chosen > 0 and rejected > 0
