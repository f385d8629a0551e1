import math

import pytest

from kto_lab.errors import LabError
from kto_lab.losses import dpo, rdpo
from tests.losses.loss_cases import pair, pair_slopes, sigmoid


def test_closed_form() -> None:
    assert rdpo(pair(0.0, 0.0), beta=0.4, flip_rate=0.2).item() == pytest.approx(math.log(2))
    wanted = (-0.8 * math.log(sigmoid(1.2)) + 0.2 * math.log(sigmoid(-1.2))) / 0.6
    assert rdpo(pair(1.0, -2.0), beta=0.4, flip_rate=0.2).item() == pytest.approx(wanted)
    assert rdpo(pair(20.0, 0.0), beta=0.4, flip_rate=0.2).item() < 0, "a single loss may be negative"


def test_slopes() -> None:
    batch = pair(1.0, -2.0)
    slope = -0.4 * (0.8 * sigmoid(-1.2) + 0.2 * sigmoid(1.2)) / 0.6
    assert pair_slopes(rdpo(batch, beta=0.4, flip_rate=0.2), batch) == pytest.approx((slope, -slope))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.49])
@pytest.mark.parametrize(("chosen", "rejected"), [(0.0, 0.0), (1.0, -2.0), (-9.0, 4.0)])
def test_over_the_swaps_its_mean_is_dpo_on_the_right_order(rate: float, chosen: float, rejected: float) -> None:
    right, swapped = pair(chosen, rejected), pair(rejected, chosen)
    losses = [rdpo(batch, beta=0.4, flip_rate=rate) for batch in (right, swapped)]
    wanted = dpo(right, beta=0.4)
    mean = (1 - rate) * losses[0].item() + rate * losses[1].item()
    assert mean == pytest.approx(wanted.item(), rel=1e-9)
    # In the swapped pair, the truly chosen completion stands in the place of the rejected one.
    own, other = pair_slopes(losses[0], right)[0], pair_slopes(losses[1], swapped)[1]
    assert (1 - rate) * own + rate * other == pytest.approx(pair_slopes(wanted, right)[0], rel=1e-9)


@pytest.mark.parametrize("rate", [-0.1, 0.5, 1.0, math.nan])
def test_impossible_flip_rates_are_refused(rate: float) -> None:
    with pytest.raises(LabError, match=r"loss\.flip_rate"):
        rdpo(pair(1.0, 0.0), beta=0.1, flip_rate=rate)
