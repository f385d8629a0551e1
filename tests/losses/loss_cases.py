"""Batches and plain formulas that the tests of the losses share. Log-ratios and slopes are in nats, in float64."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kto_lab.losses import Pairs, Thumbs
from kto_lab.losses.values import concave, identity, logistic, power

ValueFunction = Callable[[Tensor], Tensor]

VALUES: dict[str, ValueFunction] = {
    "logistic": logistic,
    "concave": concave,
    "identity": identity,
    "power": power,
}
# The reference gives every completion this log-probability, where a test says nothing else.
REFERENCE = -64.0


def sigmoid(u: float) -> float:
    return 1 / (1 + math.exp(-u))


def thumbs(
    ratios: Sequence[float],
    desirable: Sequence[bool],
    *,
    z0: float = 0.0,
    up: float = 1.0,
    down: float = 1.0,
) -> Thumbs:
    """Completions with these log-ratios; `policy` is a leaf that takes gradients."""
    reference = torch.full((len(ratios),), REFERENCE, dtype=torch.float64)
    return Thumbs(
        policy=(reference + torch.tensor(ratios, dtype=torch.float64)).requires_grad_(),
        reference=reference,
        desirable=torch.tensor(desirable),
        lambda_desirable=up,
        lambda_undesirable=down,
        z0=torch.tensor(z0, dtype=torch.float64),
    )


def pair(chosen: float, rejected: float) -> Pairs:
    """One pair with these log-ratios; both sides of the policy are leaves that take gradients."""
    reference = torch.full((1,), REFERENCE, dtype=torch.float64)
    return Pairs((reference + chosen).requires_grad_(), (reference + rejected).requires_grad_(), reference, reference)


def pair_of_means(chosen: float, rejected: float, lengths: tuple[int, int]) -> Pairs:
    """One pair with these log-probabilities a token and these lengths, and no reference to speak of."""
    sums = [torch.tensor([mean * n], dtype=torch.float64) for mean, n in zip((chosen, rejected), lengths, strict=True)]
    nothing = torch.zeros(1, dtype=torch.float64)
    return Pairs(
        sums[0].requires_grad_(),
        sums[1].requires_grad_(),
        nothing,
        nothing,
        torch.tensor([lengths[0]]),
        torch.tensor([lengths[1]]),
    )


def slopes(losses: Tensor, batch: Thumbs) -> list[float]:
    """The slope of each loss in its own completion's log-probability."""
    (gradient,) = torch.autograd.grad(losses.sum(), batch.policy, retain_graph=True)
    return gradient.tolist()


def pair_slopes(losses: Tensor, batch: Pairs) -> tuple[float, float]:
    """The slopes of the loss of one pair in the log-probabilities of the chosen and of the rejected completion."""
    chosen, rejected = torch.autograd.grad(losses.sum(), (batch.policy_chosen, batch.policy_rejected))
    return chosen.item(), rejected.item()
