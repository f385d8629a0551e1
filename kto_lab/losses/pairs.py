"""Losses of pairs of one prompt around a reference: pure functions of log-probabilities, one value for each pair."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.losses.inputs import Feed, Needs, Pairs, declares


@declares(Needs(Feed.PAIRS))
def dpo(batch: Pairs, *, beta: float) -> Tensor:
    """Direct preference optimisation: logistic loss on the margin of implicit rewards.

        -log sigmoid(beta (r_chosen - r_rejected))

    Source: Rafailov et al. 2023, "Direct Preference Optimization", arXiv 2305.18290, equation 7.

    Args:
        batch: N pairs.
        beta: inverse temperature, per nat.

    Returns:
        (N,) losses. At policy = reference: log 2.
    """
    return -F.logsigmoid(beta * batch.logratio_difference)


@declares(Needs(Feed.PAIRS))
def ipo(batch: Pairs, *, beta: float) -> Tensor:
    """Identity preference optimisation: squared distance of the margin of log-ratios from a target.

        (r_chosen - r_rejected - 1 / (2 beta))^2

    Log-ratios are sums over tokens, as in the paper and in the DPO reference code; TRL and HALOs take means over
    tokens, which is a different loss. Source: Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning
    from Human Preferences", arXiv 2310.12036, equation 17, with their tau as beta.

    Args:
        batch: N pairs.
        beta: inverse temperature, per nat; the target margin is 1 / (2 beta).

    Returns:
        (N,) losses. At policy = reference: 1 / (4 beta^2).
    """
    return (batch.logratio_difference - 1 / (2 * beta)) ** 2


@declares(Needs(Feed.PAIRS))
def cdpo(batch: Pairs, *, beta: float, flip_rate: float) -> Tensor:
    """Conservative DPO: labels smoothed. With l = -log sigmoid, D = beta (r_chosen - r_rejected) and e = `flip_rate`:

        (1 - e) l(D) + e l(-D)

    Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO".

    Args:
        batch: N pairs.
        beta: inverse temperature, per nat.
        flip_rate: e, the share of pairs whose order is wrong, in [0, 1/2).

    Returns:
        (N,) losses. At policy = reference: log 2.

    Raises:
        LabError: `flip_rate` is outside its range.
    """
    right, wrong = _both_orders(batch, beta, flip_rate)
    return (1 - flip_rate) * right + flip_rate * wrong


@declares(Needs(Feed.PAIRS))
def rdpo(batch: Pairs, *, beta: float, flip_rate: float) -> Tensor:
    """Robust DPO: unbiased when a known share of the pairs is swapped.

    With l = -log sigmoid, D = beta (r_chosen - r_rejected) and e = `flip_rate`:

        L(D) = ((1 - e) l(D) - e l(-D)) / (1 - 2 e)

    It is unbiased: over the swaps its mean (1 - e) L(D) + e L(-D) is ((1 - e)^2 - e^2) l(D) / (1 - 2 e) = l(D). A
    single loss may be negative. Source: Chowdhury et al. 2024, "Provably Robust DPO", arXiv 2403.00409.

    Args:
        batch: N pairs.
        beta: inverse temperature, per nat.
        flip_rate: e, in [0, 1/2).

    Returns:
        (N,) losses. At policy = reference: log 2.

    Raises:
        LabError: `flip_rate` is outside its range.
    """
    right, wrong = _both_orders(batch, beta, flip_rate)
    return ((1 - flip_rate) * right - flip_rate * wrong) / (1 - 2 * flip_rate)


@declares(Needs(Feed.PAIRS))
def hinge(batch: Pairs, *, beta: float) -> Tensor:
    """Hinge on the margin of implicit rewards: pairs with a margin of 1 or more have no gradient.

        max(0, 1 - beta (r_chosen - r_rejected))

    Source: Zhao et al. 2023, "SLiC-HF", arXiv 2305.10425, in its form with a reference by Liu et al. 2023, "Statistical
    Rejection Sampling Improves Preference Optimization", arXiv 2309.06657.

    Args:
        batch: N pairs.
        beta: inverse temperature, per nat.

    Returns:
        (N,) losses. At policy = reference: 1.
    """
    return F.relu(1 - beta * batch.logratio_difference)


@declares(Needs(Feed.PAIRS))
def apo_zero(batch: Pairs, *, beta: float) -> Tensor:
    """Anchored preference optimisation, zero: raises the chosen and lowers the rejected, each against the reference.

        (1 - sigmoid(beta r_chosen)) + sigmoid(beta r_rejected)

    Source: D'Oosterlinck et al. 2024, "Anchored Preference Optimization", arXiv 2408.06266.

    Args:
        batch: N pairs.
        beta: inverse temperature, per nat.

    Returns:
        (N,) losses. At policy = reference: 1.
    """
    return torch.sigmoid(-beta * batch.logratio_chosen) + torch.sigmoid(beta * batch.logratio_rejected)


@declares(Needs(Feed.PAIRS))
def apo_down(batch: Pairs, *, beta: float) -> Tensor:
    """Anchored preference optimisation, down: lowers both completions, the rejected one more.

        sigmoid(beta r_chosen) + (1 - sigmoid(beta (r_chosen - r_rejected)))

    For policies that are already better than the chosen completions. Source: D'Oosterlinck et al. 2024, "Anchored
    Preference Optimization", arXiv 2408.06266.

    Args:
        batch: N pairs.
        beta: inverse temperature, per nat.

    Returns:
        (N,) losses. At policy = reference: 1.
    """
    return torch.sigmoid(beta * batch.logratio_chosen) + torch.sigmoid(-beta * batch.logratio_difference)


@declares(Needs(Feed.PAIRS))
def holder_dpo(batch: Pairs, *, beta: float, gamma: float) -> Tensor:
    """Hoelder DPO: a density power divergence instead of DPO's likelihood, so that outliers lose influence.

    With s = sigmoid(beta (r_chosen - r_rejected)):

        gamma s^(1 + gamma) - (1 + gamma) s^gamma

    Its slope in the margin is -gamma (1 + gamma) s^gamma (1 - s)^2, which goes to 0 for pairs that the policy ranks far
    the other way (it redescends); DPO's goes to -1 there. Source: Fujisawa et al. 2025, "Scalable Valuation of Human
    Feedback through Provably Robust Model Alignment", arXiv 2505.17859, with phi(h) = gamma - (1 + gamma) h; the loss
    per pair and its slope were derived here from the Hoelder divergence phi(<p, q^gamma> / <q^(1 + gamma)>) <q^(1 +
    gamma)> of Kanamori and Fujisawa 2014, which that choice of phi makes a sum over pairs.

    Args:
        batch: N pairs.
        beta: inverse temperature, per nat.
        gamma: robustness, positive; 0 would be no loss at all.

    Returns:
        (N,) losses, negative, at least -1. At policy = reference: (gamma / 2 - 1 - gamma) / 2^gamma.

    Raises:
        LabError: `gamma` is not positive.
    """
    if not gamma > 0:
        raise LabError(f"loss.gamma is {gamma}; it must be positive.")
    share = F.logsigmoid(beta * batch.logratio_difference)
    return gamma * torch.exp((1 + gamma) * share) - (1 + gamma) * torch.exp(gamma * share)


def _both_orders(batch: Pairs, beta: float, flip_rate: float) -> tuple[Tensor, Tensor]:
    """DPO's (N,) losses of the pairs as they are, and of the pairs swapped."""
    if not 0 <= flip_rate < 0.5:
        raise LabError(f"loss.flip_rate is {flip_rate}; it must be at least 0 and below 1/2.")
    margin = beta * batch.logratio_difference
    return -F.logsigmoid(margin), -F.logsigmoid(-margin)
