"""The losses against closed forms, finite differences and their stated signs."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.losses import Pairs, Thumbs, apo_zero_unpaired, build, dpo, kto, sft
from kto_lab.losses.reference_points import Batch, Zero
from kto_lab.losses.values import concave, identity, logistic
from kto_lab.losses.weighting import Balanced, Fixed


def thumbs(
    policy: list[float], reference: list[float], desirable: list[bool], z0: float = 0.0, **kwargs: float
) -> Thumbs:
    as_tensor = torch.tensor
    up, down = kwargs.get("up", 1.0), kwargs.get("down", 1.0)
    return Thumbs(
        policy=as_tensor(policy, dtype=torch.float64, requires_grad=True),
        reference=as_tensor(reference, dtype=torch.float64),
        desirable=as_tensor(desirable),
        weight=as_tensor([up if d else down for d in desirable], dtype=torch.float64),
        z0=as_tensor(z0, dtype=torch.float64),
    )


def pairs(values: Tensor) -> Pairs:
    return Pairs(*values)


def test_kto_at_initialisation_is_half_the_weight() -> None:
    batch = thumbs([-3.0, -40.0], [-3.0, -40.0], [True, False], up=1.5, down=0.5)
    assert kto(batch, beta=0.1, value=logistic).tolist() == [0.75, 0.25]


def test_kto_closed_form() -> None:
    batch = thumbs([-3.0, -5.0], [-4.0, -2.0], [True, False], z0=0.5, up=2.0, down=3.0)
    up, down = kto(batch, beta=0.3, value=logistic).tolist()
    assert up == pytest.approx(2.0 * (1 - 1 / (1 + math.exp(-0.3 * (1.0 - 0.5)))))
    assert down == pytest.approx(3.0 * (1 - 1 / (1 + math.exp(-0.3 * (0.5 + 3.0)))))


def test_dpo_at_initialisation_is_log_2() -> None:
    values = torch.tensor([[-3.0], [-7.0], [-3.0], [-7.0]])
    assert dpo(pairs(values), beta=0.1).item() == pytest.approx(math.log(2))


def test_dpo_closed_form() -> None:
    loss = dpo(pairs(torch.tensor([[-1.0], [-4.0], [-2.0], [-3.0]])), beta=0.5)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.5 * 2.0))))


def test_sft_is_the_negative_log_likelihood() -> None:
    assert sft(thumbs([-3.0, -5.5], [0.0, 0.0], [True, True]), beta=0.1).tolist() == [3.0, 5.5]


def test_gradient_signs() -> None:
    batch = thumbs([-3.0, -5.0], [-3.0, -5.0], [True, False])
    kto(batch, beta=0.1, value=logistic).sum().backward()
    up, down = batch.policy.grad.tolist()
    # Equation 9: -/+ lambda beta sigma(u) sigma(-u), here 0.1 / 4.
    assert (up, down) == (pytest.approx(-0.025), pytest.approx(0.025))
    values = torch.tensor([[-3.0], [-7.0], [-3.0], [-7.0]], requires_grad=True)
    dpo(pairs(values), beta=0.1).sum().backward()
    assert values.grad[:, 0].tolist() == pytest.approx([-0.05, 0.05, 0.05, -0.05])


@pytest.mark.parametrize(
    "loss",
    [
        lambda p: kto(
            Thumbs(p[0], p[1], torch.tensor([True, False, True]), torch.tensor([1.0, 2.0, 0.5]).double(), p[2][0]),
            beta=0.4,
            value=logistic,
        ),
        lambda p: dpo(Pairs(p[0], p[1], p[2], p[3]), beta=0.4),
        lambda p: sft(Thumbs(p[0], p[1], torch.ones(3, dtype=torch.bool), torch.ones(3), p[2][0]), beta=0.4),
    ],
    ids=["kto", "dpo", "sft"],
)
def test_gradients_against_finite_differences(loss: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    values = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, values)


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_logratios_stay_finite(extreme: float) -> None:
    batch = thumbs([extreme, extreme], [0.0, 0.0], [True, False])
    losses = kto(batch, beta=1.0, value=logistic)
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(batch.policy.grad).all()
    values = torch.tensor([[extreme], [0.0], [0.0], [0.0]], requires_grad=True)
    loss = dpo(pairs(values), beta=1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(values.grad).all()


def test_the_batch_reference_point_is_the_clamped_mean() -> None:
    logratios = torch.tensor([1.0, 3.0, -1.0])
    point = Batch().estimate(logratios)
    assert (point.z0.item(), point.raw) == (1.0, 1.0)
    assert point.stderr == pytest.approx(2.0 / math.sqrt(3))
    below = Batch().estimate(-logratios)
    assert (below.z0.item(), below.raw) == (0.0, -1.0)
    assert Batch().estimate(torch.tensor([2.0])).stderr == 0.0


def test_zero_reference_point() -> None:
    assert Zero().estimate(torch.tensor([5.0])).z0.item() == 0.0


def test_objective_names_what_is_wrong() -> None:
    good = {"function": "kto_lab.losses.kto", "beta": 0.1, "value": logistic, "reference_point": Batch()}
    assert build(**good).mismatched
    for change, words in [
        ({"function": "kto_lab.losses.nothing"}, "cannot be imported"),
        ({"function": "math.sqrt"}, "does not declare"),
        ({"beta": 0.0}, "positive"),
        ({"reference_point": None}, "needs reference point"),
        ({"gamma": 1.0}, "gamma"),
    ]:
        with pytest.raises(LabError, match=words):
            build(**{**good, **change})
    with pytest.raises(LabError, match="takes no reference point"):
        build("kto_lab.losses.dpo", 0.1, reference_point=Zero())


def test_weights_must_not_be_negative() -> None:
    assert Fixed(1.0, 0.0).weights(3, 4).undesirable == 0.0
    for bad in [(-1.0, 1.0), (0.0, 0.0)]:
        with pytest.raises(LabError, match="lambda_desirable"):
            Fixed(*bad)


def test_balanced_weights_reach_their_target() -> None:
    for n_up, n_down in [(813, 1467), (10, 2), (5, 5)]:
        weights = Balanced(1.25).weights(n_up, n_down)
        assert weights.desirable * n_up / (weights.undesirable * n_down) == pytest.approx(1.25)
        assert min(weights.desirable, weights.undesirable) == 1.0
    with pytest.raises(LabError, match="target"):
        Balanced(0.0)


def test_apo_zero_on_single_thumbs_is_kto_without_a_reference_point() -> None:
    batch = thumbs([-3.0, -5.0], [-4.0, -2.0], [True, False], up=2.0, down=3.0)
    assert apo_zero_unpaired(batch, beta=0.3).tolist() == pytest.approx(kto(batch, beta=0.3, value=logistic).tolist())


def test_value_functions() -> None:
    gains = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    batch = thumbs(gains.tolist(), [0.0] * 3, [True] * 3)
    torch.testing.assert_close(kto(batch, beta=1.0, value=concave), -torch.nn.functional.logsigmoid(gains))
    torch.testing.assert_close(kto(batch, beta=1.0, value=identity), 1 - gains)
    assert torch.isfinite(concave(torch.tensor([1e4, -1e4]))).all()


def test_the_logistic_loss_is_symmetric_and_the_others_are_not() -> None:
    # l(z) + l(-z) = 1: uniform label noise only rescales the expected gradient of KTO.
    u = torch.linspace(-5, 5, 11, dtype=torch.float64)
    sums = {value: (1 - value(u)) + (1 - value(-u)) for value in (logistic, concave)}
    torch.testing.assert_close(sums[logistic], torch.ones_like(u))
    assert sums[concave].std() > 0.1
