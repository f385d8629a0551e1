"""Functions of log-probabilities that stay finite, with finite gradients, at both ends."""

import torch
from torch import Tensor

# 1 - p of a token is taken as at least this: in float32 a probability rounds to 1 at about 6e-8 from it.
LEAST = 1e-6


def log_complement(logp: Tensor) -> Tensor:
    """log(1 - p) from log p <= 0, nats; any shape.

    Uses log(-expm1(log p)) near 1 and log1p(-p) below 1/2 (Maechler 2012, "Accurately computing log(1 - exp(-|a|))").
    Where 1 - p is below 1e-6 the value is log(1e-6) and the gradient 0.
    """
    logp = logp.clamp(max=-LEAST)
    near_one = logp > -0.6931
    # Each branch is given what suits it, so that the one that is not taken has no infinite gradient.
    small = torch.where(near_one, logp, torch.full_like(logp, -0.5))
    large = torch.where(near_one, torch.full_like(logp, -1.0), logp)
    return torch.where(near_one, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))
