"""Reference points: what outcomes are gains or losses relative to.

A reference point is one number a step, from all examples of the step over all ranks, and gets no gradient.
"""

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


class Completions(Enum):
    """Which completions a reference point is estimated from."""

    MISMATCHED = "mismatched"
    NONE = "none"


@dataclass(frozen=True)
class ReferencePoint:
    """An estimate, in nats of log-ratio.

    Attributes:
        z0: scalar tensor, what the loss uses.
        raw: before clamping at zero.
        stderr: standard error of `raw`; 0 where it is no estimate, or from one value.
    """

    z0: Tensor
    raw: float
    stderr: float


@dataclass(frozen=True)
class Batch:
    """z0 = max(0, mean of r over the step's mismatched pairs (x, y')).

    An estimate of KL(pi || pi_ref), clamped since a KL divergence is not negative (Ethayarajh et al. 2024, arXiv
    2402.01306, section 4.1). Over the whole step and all ranks; TRL and HALOs take a micro-batch.
    """

    completions = Completions.MISMATCHED

    def estimate(self, logratios: Tensor) -> ReferencePoint:
        """The reference point from (n,) log-ratios of mismatched pairs, n >= 1."""
        raw = logratios.mean()
        spread = logratios.std().item() / math.sqrt(len(logratios)) if len(logratios) > 1 else 0.0
        return ReferencePoint(z0=raw.clamp(min=0), raw=raw.item(), stderr=spread)


@dataclass(frozen=True)
class Zero:
    """z0 = 0: no second forward pass; right where the reference was fine-tuned on the same desirable data."""

    completions = Completions.NONE

    def estimate(self, logratios: Tensor) -> ReferencePoint:
        """Zero, whatever is given."""
        return ReferencePoint(z0=torch.zeros((), device=logratios.device), raw=0.0, stderr=0.0)
