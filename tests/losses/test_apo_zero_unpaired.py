import pytest

from kto_lab.losses import apo_zero_unpaired, kto
from kto_lab.losses.values import logistic
from tests.losses.loss_cases import sigmoid, slopes, thumbs

BOTH = [True, False]


def test_at_policy_equal_reference_it_is_half_the_weight() -> None:
    assert apo_zero_unpaired(thumbs([0.0, 0.0], BOTH, up=1.5, down=0.5), beta=0.1).tolist() == [0.75, 0.25]


def test_closed_form_and_slopes() -> None:
    batch = thumbs([1.0, -3.0], BOTH, up=2.0, down=3.0)
    losses = apo_zero_unpaired(batch, beta=0.3)
    assert losses.tolist() == pytest.approx([2.0 * (1 - sigmoid(0.3)), 3.0 * sigmoid(-0.9)])
    assert slopes(losses, batch) == pytest.approx(
        [-2.0 * 0.3 * sigmoid(0.3) * sigmoid(-0.3), 3.0 * 0.3 * sigmoid(0.9) * sigmoid(-0.9)]
    )


def test_it_is_kto_at_a_reference_point_of_zero_whatever_z0_is() -> None:
    ratios, labels = [-9.0, -1.0, 0.5, 4.0], [True, False, True, False]
    zero = kto(thumbs(ratios, labels, up=2.0, down=3.0), beta=0.3, value=logistic).tolist()
    for z0 in (0.0, 5.0):
        assert apo_zero_unpaired(thumbs(ratios, labels, z0=z0, up=2.0, down=3.0), beta=0.3).tolist() == pytest.approx(
            zero
        )
