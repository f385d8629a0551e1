"""Losses of pairs that need no reference: they compare log-probabilities per token. One value per pair."""

import torch.nn.functional as F
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.losses.inputs import Feed, Needs, Pairs, declares
from kto_lab.losses.stable import log_complement


@declares(Needs(Feed.PAIRS, reference=False))
def simpo(batch: Pairs, *, beta: float, gamma: float) -> Tensor:
    """Simple preference optimisation. With m = log pi(y|x) / |y|, the mean log-probability per token:

        -log sigmoid(beta (m_chosen - m_rejected) - gamma)

    Source: Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", arXiv 2405.14734,
    equation 6.

    Args:
        batch: N pairs, with lengths.
        beta: inverse temperature; ten or more times that of `dpo`, since it scales means per token rather than sums.
        gamma: target margin of the chosen completion.

    Returns:
        (N,) losses. Where both completions are equally likely per token: -log sigmoid(-gamma).

    Raises:
        LabError: `gamma` is negative.
    """
    if not gamma >= 0:
        raise LabError(f"loss.gamma is {gamma}; it must not be negative.")
    return -F.logsigmoid(beta * (batch.mean_logp_chosen - batch.mean_logp_rejected) - gamma)


@declares(Needs(Feed.PAIRS, reference=False))
def orpo(batch: Pairs, *, odds_weight: float) -> Tensor:
    """Odds-ratio preference optimisation. With m = log pi(y|x) / |y| and log odds = m - log(1 - exp m):

        -m_chosen - odds_weight log sigmoid(log odds_chosen - log odds_rejected)

    The first term is the likelihood of the chosen completion, a mean over its own tokens (TRL's includes the prompt,
    and pools the batch); `odds_weight` is the paper's lambda. Source: Hong et al. 2024, "ORPO: Monolithic Preference
    Optimization without Reference Model", arXiv 2403.07691, equations 4, 6 and 7.

    Args:
        batch: N pairs, with lengths.
        odds_weight: weight of the odds ratio.

    Returns:
        (N,) losses. Where both completions are equally likely per token: -m_chosen + odds_weight log 2.

    Raises:
        LabError: `odds_weight` is negative.
    """
    if not odds_weight >= 0:
        raise LabError(f"loss.odds_weight is {odds_weight}; it must not be negative.")
    chosen, rejected = batch.mean_logp_chosen, batch.mean_logp_rejected
    log_odds = (chosen - log_complement(chosen)) - (rejected - log_complement(rejected))
    return -chosen - odds_weight * F.logsigmoid(log_odds)
