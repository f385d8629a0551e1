"""Value functions v: how good an outcome feels, as a function of u = beta (r - z0), u > 0 being a gain."""

import torch
from torch import Tensor


def logistic(u: Tensor) -> Tensor:
    """v(u) = sigmoid(u), the value function of KTO.

    Kahneman-Tversky's power function made smooth and bounded: concave in gains, convex in losses (Ethayarajh et al.
    2024, arXiv 2402.01306, equation 7). Any shape; values in (0, 1).
    """
    return torch.sigmoid(u)
