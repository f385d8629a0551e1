import itertools
from dataclasses import replace

import pytest
import torch

from kto_lab.losses import FlipRates, Thumbs, kto, kto_robust
from kto_lab.losses.noise import robust_weights
from kto_lab.losses.values import concave, logistic
from kto_lab.losses.weighting import Weights
from tests.losses.loss_cases import VALUES, sigmoid, slopes, thumbs

BOTH = [True, False]
RATIOS = [-7.0, -0.4, 0.0, 2.5, 11.0]


def case(desirable: bool, up: float = 1.6, down: float = 0.7) -> Thumbs:
    """The same completions, all with this thumb."""
    return thumbs(RATIOS, [desirable] * len(RATIOS), z0=0.8, up=up, down=down)


def test_at_policy_equal_reference_it_is_half_the_weight() -> None:
    batch = thumbs([0.0, 0.0], BOTH, up=1.5, down=1.5)
    for rate in (0.0, 0.2, 0.45):
        assert kto_robust(batch, beta=0.1, value=logistic, flip_rates=FlipRates(rate, rate)).tolist() == pytest.approx(
            [0.75, 0.75]
        )


def test_closed_form() -> None:
    losses = kto_robust(
        thumbs([2.0, -8.0], BOTH, z0=0.5, up=2.0, down=3.0), beta=0.3, value=logistic, flip_rates=FlipRates(0.1, 0.3)
    )
    up, down = 0.3 * (2.0 - 0.5), 0.3 * (-8.0 - 0.5)
    wanted = [
        (0.7 * 2.0 * sigmoid(-up) - 0.1 * 3.0 * sigmoid(up)) / 0.6,
        (0.9 * 3.0 * sigmoid(down) - 0.3 * 2.0 * sigmoid(-down)) / 0.6,
    ]
    assert losses.tolist() == pytest.approx(wanted)
    assert wanted[1] < 0, "a single loss may be negative"


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.2, 0.2), (0.05, 0.4), (0.6, 0.1)], ids=str)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (13.33, 1.0), (0.5, 2.0)], ids=str)
def test_over_the_flips_its_mean_is_kto_on_the_true_thumbs(
    value: str, rates: tuple[float, float], weights: tuple[float, float]
) -> None:
    v = VALUES[value]
    for truth, rate in zip(BOTH, rates, strict=True):
        right, flipped = case(truth, *weights), case(not truth, *weights)
        seen = [kto_robust(batch, beta=0.4, value=v, flip_rates=FlipRates(*rates)) for batch in (right, flipped)]
        wanted = kto(right, beta=0.4, value=v)
        torch.testing.assert_close((1 - rate) * seen[0] + rate * seen[1], wanted, rtol=1e-12, atol=1e-12)
        gradients = [torch.tensor(slopes(s, b)) for s, b in zip(seen, (right, flipped), strict=True)]
        mean = (1 - rate) * gradients[0] + rate * gradients[1]
        torch.testing.assert_close(mean, torch.tensor(slopes(wanted, right)), rtol=1e-5, atol=1e-6)


def test_the_mean_over_every_flip_of_a_batch_is_kto_on_its_true_thumbs() -> None:
    rates, truth = FlipRates(0.1, 0.3), [True, False, True]
    batch = thumbs([-2.0, 0.3, 5.0], truth, z0=0.4, up=1.6, down=0.7)
    mean = torch.zeros(3, dtype=torch.float64)
    for flips in itertools.product([False, True], repeat=3):
        chance = 1.0
        for desirable, flip in zip(truth, flips, strict=True):
            rate = rates.desirable if desirable else rates.undesirable
            chance *= rate if flip else 1 - rate
        seen = replace(batch, desirable=batch.desirable ^ torch.tensor(flips))
        mean += chance * kto_robust(seen, beta=0.5, value=logistic, flip_rates=rates).detach()
    torch.testing.assert_close(mean, kto(batch, beta=0.5, value=logistic).detach(), rtol=1e-12, atol=1e-12)


def test_with_the_logistic_it_is_kto_with_other_weights_and_a_constant() -> None:
    weights, rates = Weights(1.6, 0.7), FlipRates(0.05, 0.3)
    other = robust_weights(weights, rates)
    assert other != weights
    for desirable in BOTH:
        robust = kto_robust(case(desirable), beta=0.4, value=logistic, flip_rates=rates)
        weighted = kto(case(desirable, other.desirable, other.undesirable), beta=0.4, value=logistic)
        difference = (robust - weighted).detach()
        torch.testing.assert_close(difference, difference[:1].expand(5), rtol=1e-12, atol=1e-12)


def test_with_the_concave_no_weights_do() -> None:
    # The slopes of one class are those of plain KTO times a weight only if their ratio is the same everywhere.
    batch = case(True)
    robust = kto_robust(batch, beta=0.4, value=concave, flip_rates=FlipRates(0.1, 0.1))
    ratio = torch.tensor(slopes(robust, batch)) / torch.tensor(slopes(kto(batch, beta=0.4, value=concave), batch))
    assert ratio.max() / ratio.min() > 2
