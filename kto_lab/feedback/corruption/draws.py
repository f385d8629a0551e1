"""Draws that depend on a seed and an example's identity alone, and checks of the keys that control them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from kto_lab.errors import LabError
from kto_lab.feedback.corruption.changes import values_of
from kto_lab.hashing import content_hash


def uniform(*parts: Any) -> float:
    """A number above 0 and below 1 that depends only on the arguments."""
    # 52 bits and a half step: the largest is still below 1 as a float.
    return ((int(content_hash(*parts), 16) >> 12) + 0.5) / 2**52


def uniforms(purpose: str, seed: int, table: Dataset) -> NDArray[np.float64]:
    """One number above 0 and below 1 for each example, shape (examples,), from its identity."""
    return np.array([uniform(purpose, seed, identity) for identity in values_of(table, "example_id")])


def lowest(keys: Sequence[Any] | NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Where the `count` lowest keys are; those of a smaller count are among those of a larger one."""
    return np.array(sorted(range(len(keys)), key=keys.__getitem__)[:count], dtype=np.int64)


def check_number(key: str, value: float, allowed: Callable[[float], bool], must: str) -> None:
    """LabError unless the value of `corruption.<key>` is a finite number that is allowed."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not allowed(value):
        raise LabError(f"corruption.{key} is {value!r}; it must be {must}.")


def check_rate(key: str, value: float) -> None:
    """LabError unless the value of `corruption.<key>` is a share."""
    check_number(key, value, lambda share: 0 <= share <= 1, "a number from 0 to 1")


def check_whole(key: str, value: int, least: int) -> None:
    """LabError unless the value of `corruption.<key>` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise LabError(f"corruption.{key} is {value!r}; it must be a whole number of at least {least}.")


def check_seed(seed: int) -> None:
    """LabError unless the seed is a whole number."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise LabError(f"corruption.seed is {seed!r}; it must be a whole number.")


def scores_of(table: Dataset, name: str) -> NDArray[np.float64]:
    """The scores, shape (examples,).

    Raises:
        LabError: an example has none.
    """
    scores = np.array([math.nan if score is None else score for score in values_of(table, "score")], dtype=float)
    if missing := int((~np.isfinite(scores)).sum()):
        raise LabError(
            f"{name} needs the score behind every thumb, and {missing} of {len(table)} examples have none. Use "
            "feedback with scores (feedback=movie_ratings feedback.label=consensus, or your own with "
            "feedback.columns.score), or another corruption."
        )
    return scores
