"""Losses of pairs of one prompt: pure functions of log-probabilities, one value for each pair."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.losses.inputs import Feed, Needs, Pairs, declares


@declares(Needs(Feed.PAIRS))
def dpo(batch: Pairs, *, beta: float) -> Tensor:
    """Direct preference optimisation: -log sigmoid(beta (r_chosen - r_rejected)).

    Source: Rafailov et al. 2023, "Direct Preference Optimization", arXiv 2305.18290, equation 7.

    Args:
        batch: N pairs.
        beta: inverse nats.

    Returns:
        (N,) losses. At policy = reference: log 2.
    """
    return -F.logsigmoid(beta * batch.logratio_difference)


@declares(Needs(Feed.PAIRS))
def ipo(batch: Pairs, *, beta: float) -> Tensor:
    """Identity preference optimisation: (r_chosen - r_rejected - 1 / (2 beta))^2.

    Source: Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences",
    arXiv 2310.12036, equation 17, with their tau as beta. Log-ratios are sums over tokens, as there and in the DPO
    reference code; TRL and HALOs take means over tokens, which is another loss.

    Args:
        batch: N pairs.
        beta: inverse nats; the margin that is aimed at is 1 / (2 beta).

    Returns:
        (N,) losses. At policy = reference: 1 / (4 beta^2).
    """
    return (batch.logratio_difference - 1 / (2 * beta)) ** 2


@declares(Needs(Feed.PAIRS))
def cdpo(batch: Pairs, *, beta: float, flip_rate: float) -> Tensor:
    """Conservative DPO: DPO with its labels smoothed, (1 - e) l(D) + e l(-D) with l = -log sigmoid and D as in `dpo`.

    Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO".

    Args:
        batch: N pairs.
        beta: inverse nats.
        flip_rate: e, the share of pairs whose order is wrong, in [0, 1/2).

    Returns:
        (N,) losses. At policy = reference: log 2.

    Raises:
        LabError: `flip_rate` is outside its range.
    """
    _check(flip_rate)
    gap = beta * batch.logratio_difference
    return -(1 - flip_rate) * F.logsigmoid(gap) - flip_rate * F.logsigmoid(-gap)


@declares(Needs(Feed.PAIRS))
def rdpo(batch: Pairs, *, beta: float, flip_rate: float) -> Tensor:
    """Robust DPO: unbiased where a share e of the pairs is swapped, ((1 - e) l(D) - e l(-D)) / (1 - 2 e).

    Source: Chowdhury et al. 2024, "Provably Robust DPO", arXiv 2403.00409. Unbiased, since over the swaps its mean
    (1 - e) L(D) + e L(-D) is ((1 - e)^2 - e^2) l(D) / (1 - 2 e) = l(D). A single loss may be negative.

    Args:
        batch: N pairs.
        beta: inverse nats.
        flip_rate: e, in [0, 1/2).

    Returns:
        (N,) losses. At policy = reference: log 2.

    Raises:
        LabError: `flip_rate` is outside its range.
    """
    _check(flip_rate)
    gap = beta * batch.logratio_difference
    return (-(1 - flip_rate) * F.logsigmoid(gap) + flip_rate * F.logsigmoid(-gap)) / (1 - 2 * flip_rate)


@declares(Needs(Feed.PAIRS))
def hinge(batch: Pairs, *, beta: float) -> Tensor:
    """Hinge on the margin of implicit rewards: max(0, 1 - beta (r_chosen - r_rejected)).

    Source: Zhao et al. 2023, "SLiC-HF", arXiv 2305.10425, in the form with a reference of Liu et al. 2023, "Statistical
    Rejection Sampling Improves Preference Optimization", arXiv 2309.06657.

    Args:
        batch: N pairs.
        beta: inverse nats.

    Returns:
        (N,) losses. At policy = reference: 1.
    """
    return F.relu(1 - beta * batch.logratio_difference)


@declares(Needs(Feed.PAIRS))
def apo_zero(batch: Pairs, *, beta: float) -> Tensor:
    """Anchored preference optimisation, zero: (1 - sigmoid(beta r_chosen)) + sigmoid(beta r_rejected).

    Raises the chosen and lowers the rejected completion, each against the reference. Source: D'Oosterlinck et al. 2024,
    arXiv 2408.06266.

    Args:
        batch: N pairs.
        beta: inverse nats.

    Returns:
        (N,) losses. At policy = reference: 1.
    """
    return torch.sigmoid(-beta * batch.logratio_chosen) + torch.sigmoid(beta * batch.logratio_rejected)


@declares(Needs(Feed.PAIRS))
def apo_down(batch: Pairs, *, beta: float) -> Tensor:
    """Anchored preference optimisation, down: sigmoid(beta r_chosen) + (1 - sigmoid(beta (r_chosen - r_rejected))).

    Lowers both completions, the rejected one more: for policies that are better than the chosen completions. Source:
    D'Oosterlinck et al. 2024, arXiv 2408.06266.

    Args:
        batch: N pairs.
        beta: inverse nats.

    Returns:
        (N,) losses. At policy = reference: 1.
    """
    return torch.sigmoid(beta * batch.logratio_chosen) + torch.sigmoid(-beta * batch.logratio_difference)


def _check(flip_rate: float) -> None:
    if not 0 <= flip_rate < 0.5:
        raise LabError(f"loss.flip_rate is {flip_rate}; it must be at least 0 and below 1/2.")
