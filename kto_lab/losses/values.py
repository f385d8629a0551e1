"""Value functions v: the utility of an outcome, as a function of u = beta (r - z0) in the direction of the thumb.

u > 0 is a gain and u < 0 a loss, relative to the reference point: for a desirable completion u = beta (r - z0), for an
undesirable one u = beta (z0 - r). `loss_aversion` makes losses loom larger than gains by the sign of u, which is
Kahneman and Tversky's lambda; the other loss aversion of this lab, lambda_D and lambda_U, goes by the label. The sign
of u is what Ethayarajh et al. 2024 (arXiv 2402.01306) name as future work. With it v has a kink at u = 0, where the
slope is that of gains.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kto_lab.errors import LabError


def logistic(u: Tensor, *, loss_aversion: float = 1.0) -> Tensor:
    """v(u) = sigmoid(u), the value function of KTO.

    Kahneman-Tversky's power function made smooth and bounded: concave in gains, convex in losses (Ethayarajh et al.
    2024, arXiv 2402.01306, equation 7). Any shape; values in (0, 1) without further loss aversion.
    """
    return _averse(torch.sigmoid(u), u, 0.5, loss_aversion)


def concave(u: Tensor, *, loss_aversion: float = 1.0) -> Tensor:
    """v(u) = 1 + log sigmoid(u): concave in losses as well, so that they never saturate.

    KTO's loss with it is -log sigmoid(u) (the ablation "concave" of Ethayarajh et al. 2024, arXiv 2402.01306); the
    constant is there for that. Any shape; values below 1.
    """
    at_zero = 1 + F.logsigmoid(torch.zeros_like(u))
    return _averse(1 + F.logsigmoid(u), u, at_zero, loss_aversion)


def identity(u: Tensor, *, loss_aversion: float = 1.0) -> Tensor:
    """v(u) = u: risk-neutral (the ablation of that name in Ethayarajh et al. 2024, arXiv 2402.01306). Any shape."""
    return _averse(u, u, 0.0, loss_aversion)


def power(u: Tensor, *, alpha: float = 0.88, loss_aversion: float = 2.25, smoothing: float = 0.01) -> Tensor:
    """Kahneman-Tversky's power function, smoothed at 0.

        v(u) = (u + s)^alpha - s^alpha                        for u >= 0
        v(u) = -loss_aversion ((s - u)^alpha - s^alpha)       for u < 0

    Source: Tversky and Kahneman 1992, "Advances in Prospect Theory", equation 5, with their median alpha = 0.88 and
    lambda = 2.25; equation 4 of arXiv 2402.01306. For alpha < 1 its slope at 0 is infinite, and at policy = reference
    every u is 0; so u is shifted by s = `smoothing`, and the slope there is alpha s^(alpha - 1), 1.53 with the
    defaults. It is unbounded: unlike with the logistic, an outlier
    keeps its gradient.

    Args:
        u: any shape.
        alpha: diminishing sensitivity, positive.
        loss_aversion: lambda, how many times larger a loss looms.
        smoothing: s, in the units of u, positive.

    Raises:
        LabError: a parameter is not positive.
    """
    if not (alpha > 0 and smoothing > 0):
        raise LabError(f"loss.value: alpha is {alpha} and smoothing {smoothing}; both must be positive.")
    _check_aversion(loss_aversion)
    gain = (u.clamp(min=0) + smoothing) ** alpha - smoothing**alpha
    loss = ((-u).clamp(min=0) + smoothing) ** alpha - smoothing**alpha
    return torch.where(u >= 0, gain, -loss_aversion * loss)


def _averse(value: Tensor, u: Tensor, at_zero: Tensor | float, loss_aversion: float) -> Tensor:
    """Stretch what lies below v(0) by `loss_aversion`."""
    _check_aversion(loss_aversion)
    if loss_aversion == 1:
        return value
    return torch.where(u < 0, at_zero + loss_aversion * (value - at_zero), value)


def _check_aversion(loss_aversion: float) -> None:
    if not loss_aversion > 0:
        raise LabError(f"loss.value.loss_aversion is {loss_aversion}; it must be positive (1: none).")
