import math

import pytest
import torch

from kto_lab.losses import bco, kto
from kto_lab.losses.values import concave
from tests.losses.loss_cases import sigmoid, slopes, thumbs

BOTH = [True, False]


def test_at_policy_equal_reference_it_is_log_2_of_the_weight() -> None:
    losses = bco(thumbs([0.0, 0.0], BOTH, up=1.5, down=0.5), beta=0.1)
    assert losses.tolist() == pytest.approx([1.5 * math.log(2), 0.5 * math.log(2)])


def test_closed_form_and_slopes() -> None:
    batch = thumbs([1.0, -3.0], BOTH, z0=0.5, up=2.0, down=3.0)
    losses = bco(batch, beta=0.3)
    up, down = 0.3 * 1.0 - 0.3 * 0.5, 0.3 * -3.0 - 0.3 * 0.5
    assert losses.tolist() == pytest.approx([-2.0 * math.log(sigmoid(up)), -3.0 * math.log(1 - sigmoid(down))])
    # Those of logistic regression: the weight times what is predicted minus what is seen.
    assert slopes(losses, batch) == pytest.approx([2.0 * 0.3 * (sigmoid(up) - 1), 3.0 * 0.3 * sigmoid(down)])


def test_it_is_kto_with_the_concave_value_function() -> None:
    batch = thumbs([-30.0, -1.0, 0.5, 40.0] * 2, [True] * 4 + [False] * 4, z0=0.7, up=2.0, down=3.0)
    torch.testing.assert_close(bco(batch, beta=0.3), kto(batch, beta=0.3, value=concave), rtol=1e-12, atol=1e-12)


def test_the_best_constant_reward_is_the_log_odds_of_the_classes() -> None:
    # Logistic regression of the thumb: for 3 up and 1 down the slopes cancel at beta r - delta = log 3.
    batch = thumbs([math.log(3) / 0.3 + 0.5] * 4, [True, True, True, False], z0=0.5)
    assert sum(slopes(bco(batch, beta=0.3), batch)) == pytest.approx(0, abs=1e-12)
