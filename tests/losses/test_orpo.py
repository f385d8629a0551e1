import math

import pytest

from kto_lab.losses import orpo
from tests.losses.loss_cases import pair_of_means, pair_slopes, sigmoid


def log_odds(mean: float) -> float:
    p = math.exp(mean)
    return math.log(p / (1 - p))


def test_closed_form() -> None:
    level = pair_of_means(-1.5, -1.5, (3, 8))
    assert orpo(level, odds_weight=0.3).item() == pytest.approx(1.5 + 0.3 * math.log(2))
    for chosen, rejected in ((-0.5, -2.0), (-3.0, -0.01), (-1e-4, -9.0)):
        wanted = -chosen - 0.3 * math.log(sigmoid(log_odds(chosen) - log_odds(rejected)))
        found = orpo(pair_of_means(chosen, rejected, (3, 8)), odds_weight=0.3).item()
        assert found == pytest.approx(wanted, rel=1e-9)


def test_slopes() -> None:
    batch = pair_of_means(-0.5, -2.0, (3, 8))
    # The slope of the log odds in the log-probability is 1 / (1 - p).
    pull = 0.3 * sigmoid(log_odds(-2.0) - log_odds(-0.5))
    wanted = ((-1 - pull / (1 - math.exp(-0.5))) / 3, pull / (1 - math.exp(-2.0)) / 8)
    assert pair_slopes(orpo(batch, odds_weight=0.3), batch) == pytest.approx(wanted)


def test_without_the_odds_it_is_the_likelihood_of_the_chosen_a_token() -> None:
    assert orpo(pair_of_means(-0.5, -2.0, (3, 8)), odds_weight=0.0).item() == pytest.approx(0.5)


def test_a_certain_completion_stays_finite() -> None:
    batch = pair_of_means(0.0, 0.0, (3, 8))
    loss = orpo(batch, odds_weight=0.3)
    assert loss.item() == pytest.approx(0.3 * math.log(2))
    assert all(math.isfinite(slope) for slope in pair_slopes(loss, batch))
