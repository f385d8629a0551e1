"""Checks of bf16-mixed: log-ratios start at 0, and those of one update are what they are in float32, to rounding."""

from typing import NamedTuple

import torch
from torch import Tensor

from kto_lab.checking.comparing import ADVICE
from kto_lab.checking.policies import logps, policy, sequences
from kto_lab.checking.row import Row, judged
from kto_lab.checking.settings import Limits, Size
from kto_lab.losses import Thumbs, kto
from kto_lab.losses.values import logistic
from kto_lab.models.number_format import dither, round_once

LEARNING_RATE = 5e-5


class Update(NamedTuple):
    """(N,) log-ratios of a policy and its reference, nats: in bf16-mixed before and after an update, and in float32."""

    first: Tensor
    ours: Tensor
    right: Tensor


def bf16(size: Size, limits: Limits) -> list[Row]:
    """The first log-ratio, and the regression of the log-ratios after one update on those in float32."""
    found = one_update(size)
    first = found.first.abs().max().item()
    slope = (found.ours @ found.right / (found.right @ found.right)).item()
    return [
        judged("bf16 first log-ratio", f"{first:g} nats", limit="0", holds=first == 0, mend=ADVICE),
        judged(
            "bf16 slope of one update",
            f"{slope:.3f}",
            limit=f"1 ± {limits.slope:g}",
            holds=abs(slope - 1) <= limits.slope,
            mend=ADVICE,
        ),
    ]


def one_update(size: Size) -> Update:
    """A step of AdamW from weights rounded once, computed in float32 and put onto the masters of bf16-mixed."""
    masters, exact, tokens = policy(size), policy(size), sequences(size)
    for model in (masters, exact):
        round_once(model)
    with torch.no_grad(), _autocast(masters.device):
        reference = logps(masters, tokens, packed=True)
    dither(masters, seed=0)
    with torch.no_grad(), _autocast(masters.device):
        first = logps(masters, tokens, packed=True) - reference
    before = [weight.detach().clone() for weight in exact.parameters()]
    start = logps(exact, tokens, packed=True)
    desirable = torch.arange(len(tokens), device=start.device) % 2 == 0
    batch = Thumbs(start, start.detach(), desirable, z0=torch.zeros((), device=start.device))
    kto(batch, beta=0.1, value=logistic).mean().backward()
    torch.optim.AdamW(exact.parameters(), lr=LEARNING_RATE, weight_decay=0.0).step()
    with torch.no_grad():
        for master, old, new in zip(masters.parameters(), before, exact.parameters(), strict=True):
            master.add_(new - old)
        right = logps(exact, tokens, packed=True) - start
        with _autocast(masters.device):
            ours = logps(masters, tokens, packed=True) - reference
    return Update(first, ours, right)


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16)
