"""Class imbalance: fewer desirable or fewer undesirable examples; and fewer of each prompt.

The examples of each class are ranked by a hash of the seed and their identity, and the first ones are kept. So for one
seed a smaller class is a part of a larger one. `by` says what leaves: single examples, or whole prompts one after
another (the last one in part, so that counts stay exact), which keeps more pairs of one prompt.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.corruption.changes import Corrupted, labels_of, reduced, values_of
from kto_lab.feedback.corruption.draws import check_number, check_seed, check_whole, lowest
from kto_lab.hashing import content_hash

By = Literal["example", "prompt"]
# The default rarer class leaves room for ratios up to this one, either way.
_WIDEST_RATIO = 10


def imbalance(table: Dataset, *, keep_desirable: float, keep_undesirable: float, by: By, seed: int) -> Corrupted:
    """Keep a fraction of each class: exactly round(fraction * n) of its n examples.

    Args:
        table: rows of the training split.
        keep_desirable: fraction of the desirable examples, above 0, at most 1.
        keep_undesirable: fraction of the undesirable examples, above 0, at most 1.
        by: "example", or "prompt" (see the module).
        seed: decides which.

    Raises:
        LabError: a key is out of range, or a fraction of a class is not one example.
    """
    _check(by, seed)
    labels = labels_of(table)
    wanted = {}
    for label, key, fraction in (
        (True, "keep_desirable", keep_desirable),
        (False, "keep_undesirable", keep_undesirable),
    ):
        check_number(key, fraction, lambda share: 0 < share <= 1, "a number above 0 and at most 1")
        n = int((labels == label).sum())
        wanted[label] = round(fraction * n)
        if n and not wanted[label]:
            raise LabError(
                f"corruption.{key} is {fraction}: of {n} examples that leaves none. Give at least {1 / n:.2g}."
            )
    parameters = {"keep_desirable": keep_desirable, "keep_undesirable": keep_undesirable, "by": by, "seed": seed}
    return reduced(table, _first(table, wanted, by, seed), "imbalance", parameters)


def imbalance_ratio(
    table: Dataset,
    *,
    desirable_share: float,
    hold: Literal["total", "rarer"],
    size: int | None,
    by: By,
    seed: int,
) -> Corrupted:
    """Bring the share of desirable examples to a value, with a fixed number of examples in all or in the rarer class.

    What is held does not depend on the share unless `size` says so, so that runs of different shares compare.

    Args:
        table: rows of the training split.
        desirable_share: share of desirable examples among those that are left, above 0 and below 1.
        hold: "total": `size` examples are left, round(share * size) of them desirable. "rarer": the rarer class has
            `size` examples, and the other grows with the ratio.
        size: None for hold="total": the size of the smaller class, the largest total that every share can reach. None
            for hold="rarer": a tenth of the smaller class, with which every ratio from 1:10 to 10:1 can be reached.
        by: "example", or "prompt" (see the module).
        seed: decides which.

    Raises:
        LabError: a key is out of range, or there are too few examples; it says what can be reached.
    """
    _check(by, seed)
    check_number("desirable_share", desirable_share, lambda share: 0 < share < 1, "a number above 0 and below 1")
    if hold not in ("total", "rarer"):
        raise LabError(f"corruption.hold is {hold!r}; it must be 'total' or 'rarer'.")
    if size is not None:
        check_whole("size", size, 1)
    labels = labels_of(table)
    have = {True: int(labels.sum()), False: int((~labels).sum())}
    smaller = min(have.values())
    held = size if size is not None else (smaller if hold == "total" else max(1, smaller // _WIDEST_RATIO))
    wanted = _counts(desirable_share, hold, held)
    if any(not 1 <= wanted[label] <= have[label] for label in have):
        raise LabError(
            f"corruption.desirable_share={desirable_share} with corruption.hold={hold} and corruption.size={held} asks "
            f"for {wanted[True]} desirable and {wanted[False]} undesirable examples. There are {have[True]} and "
            f"{have[False]}, and at least one of each is needed. {_feasible(desirable_share, hold, have)}"
        )
    parameters = {"desirable_share": desirable_share, "hold": hold, "size": size, "by": by, "seed": seed}
    return reduced(table, _first(table, wanted, by, seed), "imbalance_ratio", parameters)


def one_per_prompt(table: Dataset, *, seed: int) -> Corrupted:
    """Keep a single completion of each prompt, whatever its thumb.

    What most logs of thumbs look like, and what KTO can learn from and DPO cannot: nothing is left to pair. The paper's
    "one-y-per-x" (Ethayarajh et al. 2024, arXiv 2402.01306, section 4.3).

    Args:
        table: rows of the training split.
        seed: decides which.

    Raises:
        LabError: a class that was there is empty now.
    """
    check_seed(seed)
    first: dict[str, tuple[str, int]] = {}
    identities = values_of(table, "example_id")
    for row, prompt in enumerate(values_of(table, "prompt_id")):
        rank = (content_hash("one_per_prompt", seed, identities[row]), row)
        first[prompt] = min(rank, first.get(prompt, rank))
    return reduced(table, [row for _, row in first.values()], "one_per_prompt", {"seed": seed})


def _counts(share: float, hold: str, size: int) -> dict[bool, int]:
    """Desirable (True) and undesirable (False) examples."""
    if hold == "total":
        desirable = round(share * size)
        return {True: desirable, False: size - desirable}
    if share <= 0.5:
        return {True: size, False: round(size * (1 - share) / share)}
    return {True: round(size * share / (1 - share)), False: size}


def _feasible(share: float, hold: str, have: Mapping[bool, int]) -> str:
    """The sizes with which a share can be reached, in words. Counts never fall as the size grows."""
    fits = [
        size
        for size in range(1, sum(have.values()) + 1)
        if all(1 <= count <= have[label] for label, count in _counts(share, hold, size).items())
    ]
    if not fits:
        return "No corruption.size makes that possible: choose a share nearer to a half, or use more data."
    return f"This share can be reached with corruption.size from {fits[0]} to {fits[-1]}."


def _first(table: Dataset, wanted: Mapping[bool, int], by: By, seed: int) -> list[int]:
    """The rows of the examples that are kept: of each class as many as wanted."""
    ranks: list[tuple[str, ...]] = [
        (content_hash("imbalance", seed, identity),) for identity in values_of(table, "example_id")
    ]
    if by == "prompt":
        prompts = (content_hash("imbalance", seed, identity) for identity in values_of(table, "prompt_id"))
        ranks = [(prompt, *rank) for prompt, rank in zip(prompts, ranks, strict=True)]
    labels = labels_of(table)
    kept: list[int] = []
    for label, count in wanted.items():
        rows = np.flatnonzero(labels == label)
        kept += rows[lowest([ranks[row] for row in rows], count)].tolist()
    return kept


def _check(by: Any, seed: Any) -> None:
    if by not in ("example", "prompt"):
        raise LabError(f"corruption.by is {by!r}; it must be 'example' or 'prompt'.")
    check_seed(seed)
