"""Two predictions about label noise, on the gradients of a real policy's parameters.

1. KTO's logistic loss is symmetric, so at equal weights and a fixed reference point uniform flips at rate rho scale its
   expected gradient by 1 - 2 rho, and nothing else. DPO under swaps, BCO and the concave value function do not have it.
2. At unequal weights the gradient on the class that weighs less inverts at rho = lambda_own / (lambda_D + lambda_U).

The policy is a random Llama. The reference is made up: it sets the log-ratios to a spread as it is in mid-training,
since at policy = reference every smooth loss is a straight line, and none would be told from another.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaForCausalLM

from kto_lab.feedback.corruption import label_noise
from kto_lab.feedback.table import build_table
from kto_lab.losses import Pairs, Thumbs, apo_zero, apo_zero_unpaired, bco, dpo, kto
from kto_lab.losses.noise import inversion_rates
from kto_lab.losses.values import concave, identity, logistic, power
from kto_lab.losses.weighting import Weights
from kto_lab.models.logps import completion_logps
from kto_lab.models.tokens import Encoder

BETA = 0.1
Z0 = torch.tensor(2.0)
RATES = (0.05, 0.2, 0.4)
EQUAL = Weights(1.0, 1.0)
HEAVY_UP = Weights(13.33, 1.0)
ThumbLoss = Callable[[Thumbs], Tensor]
PairLoss = Callable[[Pairs], Tensor]


def table() -> Dataset:
    """Twenty prompts with a right and a wrong answer each; a right one and a wrong one in turn."""
    rows = []
    for number in range(20):
        for answer, right in ((str(3 * number), True), (str(number + 7), False)):
            rows.append({"prompt": f"{number}+{2 * number}=", "completion": answer, "desirable": right})
    return build_table(rows, source="sums", held_out=0.0)


class Scored:
    """The table under the policy: log-probabilities with their graph, and a reference at chosen log-ratios.

    Attributes:
        table: forty examples, right and wrong in turn.
        truth: (40,) bool, the true thumbs.
        policy: (40,) log pi, with the graph to the parameters.
        reference: (40,) log pi_ref.
    """

    def __init__(self, model: LlamaForCausalLM, encoder: Encoder) -> None:
        """Run the policy once."""
        self.table = table()
        encoded = encoder.encode_table(self.table)
        assert encoded.kept == list(range(len(self.table)))
        self.truth = torch.tensor(list(self.table["desirable"]))
        self.parameters = list(model.parameters())
        self.policy = completion_logps(model, [[tokens] for tokens in encoded.tokens], pad_id=encoder.pad_id)
        # Nats: with a beta of 0.1, gains and losses of up to two or three.
        spread = 15 * torch.randn(len(self.truth), generator=torch.Generator().manual_seed(1))
        self.reference = self.policy.detach() - spread

    def gradient(self, losses: Tensor) -> Tensor:
        """(parameters,) the gradient of the sum of these losses in all parameters of the policy."""
        parts = torch.autograd.grad(losses.sum(), self.parameters, retain_graph=True)
        return torch.cat([part.flatten().double() for part in parts])

    def thumbs(self, desirable: Tensor, weights: Weights = EQUAL, policy: Tensor | None = None) -> Thumbs:
        """The examples with these thumbs."""
        policy = self.policy if policy is None else policy
        return Thumbs(policy, self.reference, desirable, weights.desirable, weights.undesirable, Z0)

    def pairs(self, *, swapped: bool) -> Pairs:
        """The right with the wrong answer of each prompt, or the wrong with the right."""
        first, second = (1, 0) if swapped else (0, 1)
        return Pairs(self.policy[first::2], self.policy[second::2], self.reference[first::2], self.reference[second::2])

    def of_thumbs(self, loss: ThumbLoss, rate: float, weights: Weights = EQUAL) -> Tensor:
        """(40,) the expected loss of each example over flips at a rate, exactly."""
        right, flipped = self.thumbs(self.truth, weights), self.thumbs(~self.truth, weights)
        return (1 - rate) * loss(right) + rate * loss(flipped)

    def of_pairs(self, loss: PairLoss, rate: float) -> Tensor:
        """(20,) the expected loss of each pair over swaps at a rate, exactly."""
        return (1 - rate) * loss(self.pairs(swapped=False)) + rate * loss(self.pairs(swapped=True))

    def mean_over_corruptions(self, rate: float, seeds: int, weights: Weights) -> Tensor:
        """(40,) dloss/dlogp of KTO with the thumbs that `label_noise` leaves, a mean over seeds."""
        leaf = self.policy.detach().requires_grad_()
        total = torch.zeros(len(self.truth))
        for seed in range(seeds):
            noisy = label_noise(self.table, rate=rate, seed=seed).table
            losses = kto(self.thumbs(torch.tensor(list(noisy["desirable"])), weights, leaf), beta=BETA, value=logistic)
            total += torch.autograd.grad(losses.sum(), leaf)[0]
        return total / seeds


@pytest.fixture
def scored(model: LlamaForCausalLM, encoder: Encoder) -> Scored:
    return Scored(model, encoder)


def off(found: Tensor, wanted: Tensor) -> float:
    """How far apart two gradients are, as a share of the second."""
    return ((found - wanted).norm() / wanted.norm()).item()


def bent(found: Tensor, clean: Tensor) -> float:
    """What of a gradient no scaling of the clean one explains, as a share: the sine of the angle between them."""
    best = found @ clean / (clean @ clean)
    return ((found - best * clean).norm() / found.norm()).item()


SYMMETRIC: dict[str, ThumbLoss] = {
    "kto": partial(kto, beta=BETA, value=logistic),
    "kto, identity": partial(kto, beta=BETA, value=identity),
    "apo_zero_unpaired": partial(apo_zero_unpaired, beta=BETA),
}
NOT_SYMMETRIC: dict[str, ThumbLoss] = {
    "kto, concave": partial(kto, beta=BETA, value=concave),
    "kto, power": partial(kto, beta=BETA, value=power),
    "kto, logistic with loss aversion by sign": partial(kto, beta=BETA, value=partial(logistic, loss_aversion=2.0)),
    "bco": partial(bco, beta=BETA),
}


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("rate", RATES)
def test_flips_scale_the_expected_gradient_of_a_symmetric_loss_and_do_nothing_else(
    scored: Scored, name: str, rate: float
) -> None:
    loss = SYMMETRIC[name]
    clean = scored.gradient(scored.of_thumbs(loss, 0.0))
    noisy = scored.gradient(scored.of_thumbs(loss, rate))
    assert clean.norm() > 0.1
    assert off(noisy, (1 - 2 * rate) * clean) < 1e-5 and bent(noisy, clean) < 1e-5


@pytest.mark.parametrize("name", NOT_SYMMETRIC)
def test_flips_bend_the_expected_gradient_of_the_others(scored: Scored, name: str) -> None:
    clean, *noisy = (scored.gradient(scored.of_thumbs(NOT_SYMMETRIC[name], rate)) for rate in (0.0, *RATES))
    shares = [bent(gradient, clean) for gradient in noisy]
    assert shares == sorted(shares) and shares[0] > 0.01 and shares[1] > 0.05, shares


def test_swaps_bend_the_expected_gradient_of_dpo_and_only_scale_that_of_apo_zero(scored: Scored) -> None:
    clean, *noisy = (scored.gradient(scored.of_pairs(partial(dpo, beta=BETA), rate)) for rate in (0.0, *RATES))
    shares = [bent(gradient, clean) for gradient in noisy]
    assert shares == sorted(shares) and shares[0] > 0.01 and shares[1] > 0.05, shares
    clean, *noisy = (scored.gradient(scored.of_pairs(partial(apo_zero, beta=BETA), rate)) for rate in (0.0, *RATES))
    for rate, gradient in zip(RATES, noisy, strict=True):
        assert off(gradient, (1 - 2 * rate) * clean) < 1e-5


def test_the_mean_gradient_over_real_corruptions_comes_close_to_the_expected_one(scored: Scored) -> None:
    rate = 0.2
    clean = scored.gradient(scored.of_thumbs(SYMMETRIC["kto"], 0.0))
    once, often = (
        scored.gradient(scored.policy * scored.mean_over_corruptions(rate, seeds, EQUAL)) for seeds in (1, 100)
    )
    assert off(often, (1 - 2 * rate) * clean) < 0.15 < off(once, (1 - 2 * rate) * clean)
    scale = (often @ clean / (clean @ clean)).item()
    assert scale == pytest.approx(1 - 2 * rate, abs=0.03)


def pull(scored: Scored, rate: float, weights: Weights, *, truly: bool) -> float:
    """The expected gradient on the examples that truly are of one class, along the one that their true thumbs give."""
    own = scored.truth if truly else ~scored.truth
    clean = scored.gradient(scored.of_thumbs(SYMMETRIC["kto"], 0.0, weights)[own])
    noisy = scored.gradient(scored.of_thumbs(SYMMETRIC["kto"], rate, weights)[own])
    return (noisy @ clean / (clean @ clean)).item()


@pytest.mark.parametrize(
    ("weights", "truly"),
    [(HEAVY_UP, False), (HEAVY_UP, True), (Weights(1.0, 13.33), True), (Weights(1.25, 1.0), False)],
    ids=str,
)
def test_the_gradient_on_a_class_inverts_where_the_formula_says(scored: Scored, weights: Weights, truly: bool) -> None:
    low, high = 0.0, 1.0
    assert pull(scored, low, weights, truly=truly) > 0 > pull(scored, high, weights, truly=truly)
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if pull(scored, middle, weights, truly=truly) > 0 else (low, middle)
    limit = inversion_rates(weights)[0 if truly else 1]
    assert low - 1e-5 < limit < high + 1e-5
    if (weights, truly) == (HEAVY_UP, False):
        assert low == pytest.approx(0.0698, abs=1e-4)


def test_real_corruptions_on_both_sides_of_the_limit_pull_the_lighter_class_both_ways(scored: Scored) -> None:
    down = ~scored.truth
    clean = scored.gradient(scored.of_thumbs(SYMMETRIC["kto"], 0.0, HEAVY_UP)[down])
    # One and two of the twenty examples of each class.
    for rate in (0.05, 0.1):
        slopes = scored.mean_over_corruptions(rate, 100, HEAVY_UP)
        found = scored.gradient((scored.policy * slopes)[down])
        scale = (found @ clean / (clean @ clean)).item()
        assert scale == pytest.approx((1 - rate) - rate * 13.33, abs=0.25)
        assert (scale > 0) is (rate < inversion_rates(HEAVY_UP)[1])
