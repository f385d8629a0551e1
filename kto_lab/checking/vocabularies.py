"""Checks of the chunked head at large vocabularies against float64: log-probabilities, and gradients both ways."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kto_lab.checking.comparing import difference, largest, within
from kto_lab.checking.policies import device
from kto_lab.checking.row import Row
from kto_lab.checking.settings import Limits, Size
from kto_lab.models.head import token_logps

VOCABULARIES = (32_000, 262_144)


class Exact(NamedTuple):
    """Log-probabilities of tokens, and the gradients of their sum."""

    logps: Tensor
    of_states: Tensor
    of_weight: Tensor


def heads(size: Size, limits: Limits) -> list[Row]:
    """A row per vocabulary: the worst of log-probabilities, the gradient of the states, and that of the weights."""
    return [_row(vocabulary, size, limits) for vocabulary in VOCABULARIES]


def _row(vocabulary: int, size: Size, limits: Limits) -> Row:
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(size.head_tokens, size.head, generator=draw)
    weight = torch.randn(vocabulary, size.head, generator=draw) * size.head**-0.5
    # The ends of the vocabulary, and tokens between.
    targets = torch.randint(vocabulary, (size.head_tokens,), generator=draw)
    targets[:2] = torch.tensor([0, vocabulary - 1])
    right = _exact(states.double(), weight.double(), targets)
    worst = {
        "trained": largest(_errors(states, weight, targets, right, trained=True)),
        "frozen": largest(_errors(states, weight, targets, right, trained=False)),
    }
    error = largest(list(worst.values()))
    where = next(how for how, one in worst.items() if not one < error)
    return within(f"head of {vocabulary:,} tokens", error, limits.head, where=where)


def _errors(states: Tensor, weight: Tensor, targets: Tensor, right: Exact, *, trained: bool) -> list[float]:
    """Of the log-probabilities, of the gradient of the states, and of that of the weight where it is trained."""
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=device()).requires_grad_(trained)
    with torch.no_grad():
        head.weight.copy_(weight)
    ours = states.to(device(), copy=True).requires_grad_()
    found = token_logps(head, ours, targets.to(device()))
    found.sum().backward()
    errors = [difference(found, right.logps), difference(_gradient(ours), right.of_states)]
    return [*errors, difference(_gradient(head.weight), right.of_weight)] if trained else errors


def _exact(states: Tensor, weight: Tensor, targets: Tensor) -> Exact:
    """Log-probabilities and both gradients of their sum, by the formula in `models/head.py`."""
    of_all = (states @ weight.T).log_softmax(1)
    of_logits = -of_all.exp()
    of_logits[torch.arange(len(targets)), targets] += 1
    return Exact(of_all.gather(1, targets[:, None])[:, 0], of_logits @ weight, of_logits.T @ states)


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad
