"""Checks of log-probabilities and gradients on this machine against float64 on the CPU, and of what repeats."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kto_lab.checking.comparing import difference, distance, largest, within
from kto_lab.checking.policies import llama, logps, plain_logps, policy, sequences
from kto_lab.checking.row import Row, judged
from kto_lab.checking.settings import Limits, Size
from kto_lab.losses import Thumbs, kto
from kto_lab.losses.values import logistic
from kto_lab.models.number_format import round_once

STEPS = 10
REPEAT = "Runs on this machine do not repeat exactly: try trainer.deterministic=true, and fewer threads."


def from_float64(size: Size, limits: Limits) -> list[Row]:
    """Log-probabilities and gradients in float32."""
    model, exact = policy(size), llama(size).double()
    of_logps, of_gradients = _errors(model, exact, size, bf16=False, measure=difference)
    return [
        within("log-probs from float64", of_logps, limits.logps),
        within("gradients from float64", of_gradients, limits.gradients),
    ]


def in_bf16(size: Size, limits: Limits) -> list[Row]:
    """Log-probabilities and gradients in bf16-mixed, of weights that are bfloat16 numbers."""
    model, exact = policy(size), llama(size)
    for one in (model, exact):
        round_once(one)
    of_logps, of_gradients = _errors(model, exact.double(), size, bf16=True, measure=distance)
    return [
        within("bf16 log-probs from float64", of_logps, limits.bf16_logps),
        within("bf16 gradients from float64", of_gradients, limits.bf16_gradients),
    ]


def _errors(
    model: PreTrainedModel,
    exact: PreTrainedModel,
    size: Size,
    *,
    bf16: bool,
    measure: Callable[[Tensor, Tensor], float],
) -> tuple[float, float]:
    """Of the log-probabilities, and of the gradient of that weight whose is the worst."""
    tokens = sequences(size)
    with torch.autocast(model.device.type, dtype=torch.bfloat16) if bf16 else nullcontext():
        ours = logps(model, tokens, packed=bf16)
    theirs = plain_logps(exact, tokens)
    ours.sum().backward()
    theirs.sum().backward()
    of_gradients = [
        measure(mine.grad, right.grad)
        for mine, right in zip(model.parameters(), exact.parameters(), strict=True)
        if mine.grad is not None and right.grad is not None
    ]
    return difference(ours, theirs), largest(of_gradients)


def repeats(size: Size, limits: Limits) -> Row:
    """Ten steps of KTO, twice: the same weights bit for bit."""
    first, second = _train(size), _train(size)
    unlike = sum(not torch.equal(one, other) for one, other in zip(first, second, strict=True))
    said = f"{unlike} of {len(first)} weights differ" if unlike else "bit for bit the same"
    return judged(f"{STEPS} steps of KTO, twice", said, limit="bit for bit", holds=not unlike, mend=REPEAT)


def _train(size: Size) -> list[Tensor]:
    model, tokens = policy(size), sequences(size)
    with torch.no_grad():
        reference = logps(model, tokens)
    desirable = torch.tensor([number % 2 == 0 for number in range(len(tokens))], device=reference.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        policy_logps = logps(model, tokens, packed=True)
        batch = Thumbs(policy_logps, reference, desirable, z0=torch.zeros((), device=reference.device))
        kto(batch, beta=0.1, value=logistic).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [weight.detach() for weight in model.parameters()]
