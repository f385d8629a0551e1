import pytest
import torch

from kto_lab.losses import Thumbs, kto, kto_reference_free
from kto_lab.losses.values import logistic
from tests.losses.loss_cases import VALUES, sigmoid, slopes, thumbs

BOTH = [True, False]


def without_reference(policy: list[float], z0: float, up: float = 1.0, down: float = 1.0) -> Thumbs:
    logps = torch.tensor(policy, dtype=torch.float64, requires_grad=True)
    unread = torch.full_like(logps, torch.nan).detach()
    return Thumbs(logps, unread, torch.tensor(BOTH), up, down, z0=torch.tensor(z0, dtype=torch.float64))


def test_closed_form() -> None:
    batch = without_reference([-3.0, -9.0], z0=-5.0, up=1.75, down=1.0)
    losses = kto_reference_free(batch, beta=0.2, value=logistic)
    assert losses.tolist() == pytest.approx([1.75 * sigmoid(-0.2 * 2.0), sigmoid(0.2 * -4.0)])


def test_the_gradient_raises_the_desirable_and_lowers_the_undesirable() -> None:
    batch = without_reference([-3.0, -9.0], z0=-5.0, up=2.0, down=3.0)
    up, down = slopes(kto_reference_free(batch, beta=0.2, value=logistic), batch)
    assert up == pytest.approx(-2.0 * 0.2 * sigmoid(0.4) * sigmoid(-0.4))
    assert down == pytest.approx(3.0 * 0.2 * sigmoid(0.8) * sigmoid(-0.8))


@pytest.mark.parametrize("value", VALUES)
def test_it_is_kto_with_a_reference_that_finds_all_alike(value: str) -> None:
    batch = thumbs([3.0, -2.0], BOTH, z0=1.5, up=1.3, down=0.7)
    uniform = Thumbs(batch.policy, batch.reference, batch.desirable, 1.3, 0.7, z0=batch.z0 + batch.reference[0])
    alike = kto_reference_free(uniform, beta=0.4, value=VALUES[value])
    torch.testing.assert_close(alike, kto(batch, beta=0.4, value=VALUES[value]))
