"""Log-probabilities of tokens from hidden states, in chunks: never all logits of a batch at once, in either direction.

The formula is log p(y | h) = (W h)_y - logsumexp(W h), with d log p / d h = W_y - p W and d log p / d W = (1_y - p) h.
A frozen head gets its gradient in the forward pass, where the logits are at hand. A trained one keeps the probabilities
while they are few, and computes the logits again where they are many: one matrix product more, and no memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kto_lab.models.products import product_format

CHUNK = 2**24  # logits computed at a time: 64 MiB in float32
KEPT = 2**26  # probabilities kept for the backward pass, if they are no more than this: 256 MiB


def token_logps(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    """(T,) float32 log-probabilities of tokens, nats.

    Args:
        head: makes logits of hidden states; a plain linear layer takes the chunked way.
        states: (T, hidden).
        targets: (T,) the tokens.
    """
    if type(head) is nn.Linear and head.bias is None:
        weight = head.weight
        if torch.is_autocast_enabled(states.device.type):
            # Rounded here, once, for all chunks and for the backward pass.
            number_format = torch.get_autocast_dtype(states.device.type)
            states, weight = states.to(number_format), weight.to(number_format)
        with torch.autocast(states.device.type, enabled=False):
            logps: Tensor = LinearLogps.apply(states, weight, targets)
            return logps
    rows = _rows_at_once(head(states[:1]).shape[-1])
    parts = zip(states.split(rows), targets.split(rows), strict=True)
    return torch.cat([-F.cross_entropy(head(part).float(), wanted, reduction="none") for part, wanted in parts])


class LinearLogps(torch.autograd.Function):
    """(hidden states (T, H), weight (V, H), targets (T,)) -> (T,) float32 log-probabilities; see the module."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities, and what the backward pass needs."""
        for_states, for_weight, _ = ctx.needs_input_grad
        keep = for_weight and len(states) * len(weight) <= KEPT
        logps = torch.empty(len(states), device=states.device)
        kept: list[Tensor] = []
        if for_states and not for_weight:
            kept = [torch.empty_like(states)]
        rows = _rows_at_once(len(weight))
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            probabilities, logps[part] = _softmax(states[part], weight, targets[part])
            if keep:
                kept.append(probabilities)
            elif kept:
                kept[0][part] = weight[targets[part]] - probabilities.to(weight.dtype) @ weight
        ctx.keep, ctx.rows = keep, rows
        ctx.save_for_backward(states, weight, targets, *kept)
        return logps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of states and weight."""
        states, weight, targets, *kept = ctx.saved_tensors
        of_logps = gradients[0][:, None]
        for_states, for_weight, _ = ctx.needs_input_grad
        if not for_weight:
            return (of_logps * kept[0]).to(states.dtype), None, None
        # Sums over many tokens are kept in float32 whatever the format of the products.
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        of_states = torch.empty_like(states) if for_states else None
        for number, start in enumerate(range(0, len(states), ctx.rows)):
            part = slice(start, start + ctx.rows)
            wanted = targets[part]
            probabilities = kept[number] if ctx.keep else _softmax(states[part], weight, wanted)[0]
            # In place where they are computed anew; kept ones may be asked for again.
            of_logits = probabilities * -of_logps[part] if ctx.keep else probabilities.mul_(-of_logps[part])
            of_logits.scatter_add_(1, wanted[:, None], of_logps[part])
            of_logits = of_logits.to(weight.dtype)
            if of_states is not None:
                torch.mm(of_logits, weight, out=of_states[part])
            if of_weight.dtype == weight.dtype:
                of_weight.addmm_(of_logits.T, states[part])
            else:
                of_weight += of_logits.T @ states[part]
        return of_states, of_weight.to(weight.dtype), None


def _softmax(states: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (T, V) and the log-probabilities (T,) of the targets, in float32."""
    logits = _float32_logits(states, weight)
    total = logits.logsumexp(1)
    logps = logits.gather(1, targets[:, None])[:, 0] - total
    return logits.sub_(total[:, None]).exp_(), logps


def _float32_logits(states: Tensor, weight: Tensor) -> Tensor:
    """Logits in float32 also of 16-bit operands: rounded to 8 bits, one near 20 would be off by up to 0.06 nats."""
    if states.itemsize > 2:
        return states @ weight.T
    if states.is_cuda:
        return torch.mm(states, weight.T, out_dtype=torch.float32)
    return states.float() @ weight.T.float()


def _rows_at_once(vocabulary: int) -> int:
    return max(1, CHUNK // vocabulary)


@contextmanager
def float32_outputs(head: nn.Module) -> Iterator[None]:
    """For a block without gradients, a head gives what `token_logps` reads: float32, also under autocast.

    Args:
        head: makes logits of hidden states; any but a plain linear layer gives what it gave before.
    """
    if type(head) is not nn.Linear or head.bias is not None:
        yield
        return

    def forward(states: Tensor) -> Tensor:
        number_format = product_format(states.device) or states.dtype
        with torch.autocast(states.device.type, enabled=False):
            outputs = _float32_logits(states.flatten(0, -2).to(number_format), head.weight.to(number_format))
        return outputs.unflatten(0, states.shape[:-1])

    head.forward = forward
    try:
        yield
    finally:
        del head.forward
