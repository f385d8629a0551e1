"""Value functions v: how good an outcome feels, as a function of u = beta (r - z0), u > 0 being a gain."""

import torch
import torch.nn.functional as F
from torch import Tensor


def logistic(u: Tensor) -> Tensor:
    """v(u) = sigmoid(u), the value function of KTO.

    Kahneman-Tversky's power function made smooth and bounded: concave in gains, convex in losses (Ethayarajh et al.
    2024, arXiv 2402.01306, equation 7). Any shape; values in (0, 1).
    """
    return torch.sigmoid(u)


def concave(u: Tensor) -> Tensor:
    """v(u) = 1 + log sigmoid(u): concave in losses, too, so that they never saturate.

    KTO's loss with it is -log sigmoid(u) (the ablation "concave" of Ethayarajh et al. 2024, arXiv 2402.01306); the
    constant only makes that so. Any shape; values below 1.
    """
    return 1 + F.logsigmoid(u)


def identity(u: Tensor) -> Tensor:
    """v(u) = u: risk-neutral (the ablation of that name in Ethayarajh et al. 2024, arXiv 2402.01306). Any shape."""
    return u
