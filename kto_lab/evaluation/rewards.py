"""How well the implicit reward tells desirable answers from undesirable ones, on clean labels of held-out examples.

The implicit reward of an answer is beta * (log policy(y|x) - log reference(y|x)), in nats scaled by beta, for every
loss (Rafailov et al. 2023, arXiv 2305.18290, section 5.2).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from kto_lab.statistics import Estimate, auc_interval, cluster_interval, cluster_sums, share_interval


def reward_metrics(
    rewards: ArrayLike,
    desirable_clean: ArrayLike,
    prompt_ids: Sequence[str],
    pair_ids: Sequence[str | None] | None = None,
    *,
    seed: int,
) -> dict[str, Estimate]:
    """Metrics of implicit rewards. All intervals are bootstraps over prompts; `n` counts prompts.

    Args:
        rewards: (N,) implicit rewards, scaled by beta.
        desirable_clean: (N,) labels before any noise.
        prompt_ids: (N,) the prompt of each example.
        pair_ids: (N,) the pair that each example was given as half of, None for others; None where there are none.
        seed: seeds the bootstraps.

    Returns:
        - `reward_accuracy`: share of examples whose reward has the sign of the label; a reward of exactly 0 counts 1/2.
        - `reward_auc`: chance that a desirable example is rewarded above an undesirable one, over all prompts.
        - `pair_accuracy`: share of pairs that are ranked right, ties counting 1/2: those that were given, and all of a
          desirable and an undesirable answer to one prompt among examples that were not given as pairs.
        - `reward_desirable`, `reward_undesirable`: mean reward of the class.
        - `reward_margin`: the first less the second.

        What a table cannot tell (a class or pairs that it lacks) has the value None.
    """
    reward = np.asarray(rewards, dtype=np.float64)
    desirable = np.asarray(desirable_clean, dtype=bool)
    agreement = (np.sign(reward) * np.where(desirable, 1, -1) + 1) / 2
    accuracy = cluster_sums(np.stack([agreement, np.ones_like(reward)], axis=-1), prompt_ids)
    classes = np.stack([reward * desirable, desirable, reward * ~desirable, ~desirable], axis=-1)
    by_class = cluster_sums(classes, prompt_ids)
    pairs = _pairs(reward, desirable, prompt_ids, pair_ids or [None] * len(reward))
    return {
        "reward_accuracy": share_interval(accuracy[:, 0], accuracy[:, 1], seed=seed),
        "reward_auc": auc_interval(reward, desirable, prompt_ids, seed=seed),
        "pair_accuracy": share_interval(pairs[:, 0], pairs[:, 1], seed=seed),
        "reward_desirable": _class_mean(by_class[:, :2], seed),
        "reward_undesirable": _class_mean(by_class[:, 2:], seed),
        "reward_margin": cluster_interval(by_class, lambda t: t[:, 0] / t[:, 1] - t[:, 2] / t[:, 3], seed=seed),
    }


def _class_mean(sums: np.ndarray, seed: int) -> Estimate:
    """Mean reward of one class from its (C, 2) reward sums and counts, over the prompts that have the class."""
    return cluster_interval(sums[sums[:, 1] > 0], lambda totals: totals[:, 0] / totals[:, 1], seed=seed)


def _pairs(
    reward: np.ndarray, desirable: np.ndarray, prompt_ids: Sequence[str], pair_ids: Sequence[str | None]
) -> np.ndarray:
    """For each prompt, how many of its pairs are ranked right (ties 1/2), and how many it has: (C, 2)."""
    # Halves of given pairs meet each other alone: an answer that won here and lost there is no pair with itself.
    meeting: dict[tuple[str, str | None], list[int]] = {}
    for row, who in enumerate(zip(prompt_ids, pair_ids, strict=True)):
        meeting.setdefault(who, []).append(row)
    counts = {prompt: np.zeros(2) for prompt in prompt_ids}
    for (prompt, _), members in meeting.items():
        chosen, rejected = reward[members][desirable[members]], reward[members][~desirable[members]]
        wins = (np.sign(chosen[:, None] - rejected[None, :]) + 1) / 2
        counts[prompt] += wins.sum(), wins.size
    return np.array(list(counts.values())).reshape(-1, 2)
