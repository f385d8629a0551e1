"""Log-probabilities of tokens from hidden states, in chunks: never all logits of a batch at once, in either direction.

The formula is log p(y | h) = z_y - logsumexp(z) with logits z = f(W h), where f is what the architecture does to its
head's output (`LogitMap`). The slopes s = d log p / d (W h) = (1_y - p) f'(W h) give d log p / d h = s W and
d log p / d W = s h. A frozen head gets its gradient in the forward pass, where the logits are at hand. A trained one
keeps the slopes while they are few, and computes the logits again where they are many: one matrix product more, and no
memory.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from kto_lab.models.products import product_format

CHUNK = 2**24  # logits computed at a time on a CPU: 64 MiB in float32
# Of a GPU's memory, what the logits computed at a time may take: 640 MiB of 80 GiB. A few rows would not keep it busy.
SHARE = 1 / 128
KEPT = 2**26  # slopes kept for the backward pass, if they are no more than this: 256 MiB
# Keys of a configuration: what the head's output is multiplied by, divided by, and where it is capped.
FACTORS = ("logit_scale", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)
CAPS = ("final_logit_softcapping", "logits_soft_cap")


@dataclass(frozen=True)
class LogitMap:
    """What an architecture does to the output of its head: scales it, and then caps it softly.

    Attributes:
        scale: factor.
        cap: c of c tanh(x / c), which stays within c; None for no cap.
    """

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: PretrainedConfig) -> "LogitMap":
        """The one that a configuration asks for, as Cohere, Granite and Gemma 2 do."""

        def product(names: tuple[str, ...]) -> float:
            values = [getattr(config, name, None) for name in names]
            return math.prod(value for value in values if isinstance(value, int | float))

        caps = [cap for name in CAPS if (cap := getattr(config, name, None)) is not None]
        return cls(product(FACTORS) / product(DIVISORS), caps[0] if caps else None)

    def __call__(self, outputs: Tensor) -> Tensor:
        """Logits of the head's output, in its format; the output itself where nothing is done to it."""
        scaled = outputs * self.scale if self.scale != 1 else outputs
        return scaled if self.cap is None else self.cap * (scaled / self.cap).tanh()

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative, of the logits that it gave."""
        return self.scale if self.cap is None else (logits / self.cap).square_().neg_().add_(1).mul_(self.scale)


def token_logps(head: nn.Module, states: Tensor, targets: Tensor, logit_map: LogitMap | None = None) -> Tensor:
    """(T,) float32 log-probabilities of tokens, nats.

    Args:
        head: a plain linear layer takes the chunked way.
        states: (T, hidden).
        targets: (T,) the tokens.
        logit_map: what makes logits of the head's output; None where that is what they are.
    """
    logit_map = logit_map or LogitMap()
    if type(head) is nn.Linear and head.bias is None:
        weight = head.weight
        if torch.is_autocast_enabled(states.device.type):
            # Rounded here, once, for all chunks and for the backward pass.
            number_format = torch.get_autocast_dtype(states.device.type)
            states, weight = states.to(number_format), weight.to(number_format)
        with torch.autocast(states.device.type, enabled=False):
            logps: Tensor = LinearLogps.apply(states, weight, targets, logit_map)
            return logps
    rows = _rows_at_once(head(states[:1]).shape[-1], states.device)
    parts = zip(states.split(rows), targets.split(rows), strict=True)
    return torch.cat(
        [-F.cross_entropy(logit_map(head(part).float()), wanted, reduction="none") for part, wanted in parts]
    )


class LinearLogps(torch.autograd.Function):
    """(hidden states (T, H), weight (V, H), targets (T,), map) -> (T,) float32 log-probabilities; see the module."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, logit_map: LogitMap) -> Tensor:
        """Log-probabilities, and what the backward pass needs."""
        for_states, for_weight, *_ = ctx.needs_input_grad
        keep = for_weight and len(states) * len(weight) <= KEPT
        logps = torch.empty(len(states), device=states.device)
        kept: list[Tensor] = []
        if for_states and not for_weight:
            kept = [torch.empty_like(states)]
        rows = _rows_at_once(len(weight), states.device)
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            logits, total, logps[part] = _logits(states[part], weight, targets[part], logit_map)
            if keep:
                kept.append(_slopes(logits, total, targets[part], logit_map))
            elif kept:
                kept[0][part] = _slopes(logits, total, targets[part], logit_map).to(weight.dtype) @ weight
        ctx.keep, ctx.rows, ctx.logit_map = keep, rows, logit_map
        ctx.save_for_backward(states, weight, targets, *kept)
        return logps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of states and weight."""
        states, weight, targets, *kept = ctx.saved_tensors
        of_logps = gradients[0][:, None]
        for_states, for_weight, *_ = ctx.needs_input_grad
        if not for_weight:
            return (of_logps * kept[0]).to(states.dtype), None, None, None
        # Sums over many tokens are kept in float32 whatever the format of the products.
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        of_states = torch.empty_like(states) if for_states else None
        for number, start in enumerate(range(0, len(states), ctx.rows)):
            part = slice(start, start + ctx.rows)
            if ctx.keep:  # may be asked for again
                of_outputs = kept[number] * of_logps[part]
            else:
                logits, total, _ = _logits(states[part], weight, targets[part], ctx.logit_map)
                of_outputs = _slopes(logits, total, targets[part], ctx.logit_map).mul_(of_logps[part])
            of_outputs = of_outputs.to(weight.dtype)
            if of_states is not None:
                torch.mm(of_outputs, weight, out=of_states[part])
            if of_weight.dtype == weight.dtype:
                of_weight.addmm_(of_outputs.T, states[part])
            else:
                of_weight += of_outputs.T @ states[part]
        return of_states, of_weight.to(weight.dtype), None, None


def _logits(states: Tensor, weight: Tensor, targets: Tensor, logit_map: LogitMap) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (T, V), their logsumexp (T, 1), and the log-probabilities (T,) of the targets, in float32."""
    logits = logit_map(_float32_outputs(states, weight))
    total = logits.logsumexp(1, keepdim=True)
    return logits, total, (logits.gather(1, targets[:, None]) - total)[:, 0]


def _slopes(logits: Tensor, total: Tensor, targets: Tensor, logit_map: LogitMap) -> Tensor:
    """(T, V) derivatives of the targets' log-probabilities by the head's output, in the place of the logits."""
    slope = logit_map.slope(logits)
    of_logits = logits.sub_(total).exp_().neg_()
    of_logits.scatter_add_(1, targets[:, None], torch.ones_like(total))
    return of_logits if isinstance(slope, float) and slope == 1 else of_logits.mul_(slope)


def _float32_outputs(states: Tensor, weight: Tensor) -> Tensor:
    """The head's output in float32, also of 16-bit operands.

    Rounded to 8 bits, a logit near 20 would be off by up to 0.06 nats.
    """
    if states.itemsize > 2:
        return states @ weight.T
    if states.is_cuda:
        return torch.mm(states, weight.T, out_dtype=torch.float32)
    return states.float() @ weight.T.float()


def _rows_at_once(vocabulary: int, device: torch.device) -> int:
    cuda = device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if cuda else 0
    return max(1, chunk_logits(total) // vocabulary)


def chunk_logits(device_bytes: int) -> int:
    """Logits that are computed at a time, where a GPU has so much memory; 0 bytes stand for a CPU."""
    return int(device_bytes * SHARE) // 4 if device_bytes else CHUNK


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
            outputs = _float32_outputs(states.flatten(0, -2).to(number_format), head.weight.to(number_format))
        return outputs.unflatten(0, states.shape[:-1])

    head.forward = forward
    try:
        yield
    finally:
        del head.forward
