import pytest

from kto_lab.losses import hinge
from tests.losses.loss_cases import pair, pair_slopes


@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "slope"),
    [(0.0, 0.0, 1.0, -0.4), (1.0, -1.0, 0.2, -0.4), (-1.0, 2.0, 2.2, -0.4), (1.0, -2.0, 0.0, 0.0)],
)
def test_closed_form_and_slopes(chosen: float, rejected: float, loss: float, slope: float) -> None:
    batch = pair(chosen, rejected)
    found = hinge(batch, beta=0.4)
    assert found.item() == pytest.approx(loss)
    assert pair_slopes(found, batch) == pytest.approx((slope, -slope))
