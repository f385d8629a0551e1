import math

import pytest

from kto_lab.losses import simpo
from tests.losses.loss_cases import pair_of_means, pair_slopes, sigmoid


def test_closed_form() -> None:
    level = pair_of_means(-1.5, -1.5, (3, 8))
    assert simpo(level, beta=2.0, gamma=0.7).item() == pytest.approx(-math.log(sigmoid(-0.7)))
    found = simpo(pair_of_means(-0.5, -2.0, (3, 8)), beta=2.0, gamma=0.7).item()
    assert found == pytest.approx(-math.log(sigmoid(2.0 * (-0.5 + 2.0) - 0.7)))


def test_slopes_are_shared_out_over_the_tokens() -> None:
    batch = pair_of_means(-0.5, -2.0, (3, 8))
    slope = 2.0 * sigmoid(0.7 - 2.0 * 1.5)
    assert pair_slopes(simpo(batch, beta=2.0, gamma=0.7), batch) == pytest.approx((-slope / 3, slope / 8))


def test_length_alone_wins_nothing() -> None:
    losses = {simpo(pair_of_means(-0.5, -2.0, n), beta=2.0, gamma=0.7).item() for n in ((1, 1), (3, 8), (500, 2))}
    assert max(losses) == pytest.approx(min(losses))
