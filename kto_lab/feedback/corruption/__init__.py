"""The corruption lab: controlled damage to the training labels and to the classes.

Each option of the group `corruption` is a function f(table, **keys) -> `Corrupted`. It gets the rows of the training
split, draws with the run's seed unless `corruption.seed` says another, and says exactly what it did (`Change`). So the
spread over seeds is that of new draws of the corruption, too. Evaluation keeps reading `desirable_clean`, which no
corruption touches.

Draws are hashes of the seed and of an example's identity (common random numbers). So they do not depend on the order of
the table, and they nest: the flips at rate 0.1 are among those at 0.2, the examples kept at a half are among those kept
at three quarters. Subsets and flips hash apart, so that of a subset no larger share is flipped than of the whole.
Counts are exact: a share of n is round(share * n), halves to even.
"""

from kto_lab.feedback.corruption.changes import Change, Corrupted, PairSwaps
from kto_lab.feedback.corruption.classes import imbalance, imbalance_ratio, one_per_prompt
from kto_lab.feedback.corruption.composition import compose, unchanged
from kto_lab.feedback.corruption.flips import (
    label_noise,
    label_noise_by_class,
    label_noise_by_length,
    label_noise_near_boundary,
)
from kto_lab.feedback.corruption.raters import (
    label_noise_disagreeing_raters,
    label_noise_one_rater,
    label_noise_simulated_rater,
)
from kto_lab.feedback.corruption.swaps import Swapped, pair_swaps, swapped

__all__ = [
    "Change",
    "Corrupted",
    "PairSwaps",
    "Swapped",
    "compose",
    "imbalance",
    "imbalance_ratio",
    "label_noise",
    "label_noise_by_class",
    "label_noise_by_length",
    "label_noise_disagreeing_raters",
    "label_noise_near_boundary",
    "label_noise_one_rater",
    "label_noise_simulated_rater",
    "one_per_prompt",
    "pair_swaps",
    "swapped",
    "unchanged",
]
