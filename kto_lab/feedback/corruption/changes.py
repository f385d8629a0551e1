"""The result of a corruption: the corrupted table, and exactly what was done to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from kto_lab.errors import LabError
from kto_lab.hashing import content_hash


@dataclass(frozen=True)
class Change:
    """What one corruption did to the table, in plain values for the record.

    Attributes:
        name: of the corruption, as in conf/corruption/.
        parameters: its keys, as given.
        examples_before: examples before it.
        examples_after: examples after it.
        desirable_before: desirable examples before it.
        desirable_after: desirable examples after it.
        flipped_to_desirable: undesirable examples that it made desirable.
        flipped_to_undesirable: desirable examples that it made undesirable.
        removed: examples that it removed.
        touched: hash of the `example_id`s that were flipped or removed, in sorted order; "" where there are none.
    """

    name: str
    parameters: dict[str, Any]
    examples_before: int
    examples_after: int
    desirable_before: int
    desirable_after: int
    flipped_to_desirable: int
    flipped_to_undesirable: int
    removed: int
    touched: str


@dataclass(frozen=True)
class PairSwaps:
    """Which pairs are to be swapped, once there are pairs; see `swaps.swapped`.

    Attributes:
        rate: share of the pairs, in [0, 1].
        seed: decides which.
    """

    rate: float
    seed: int


@dataclass(frozen=True)
class Corrupted:
    """A table after corruption.

    Attributes:
        table: the remaining rows, in the table's order. Only `desirable` may differ from before.
        changes: what each corruption did, in the order in which they were applied.
        swap_pairs: what to do with the pairs made of the table; None for nothing.
        noise_added: noise of thumbs or pairs was requested, even at rate 0.
    """

    table: Dataset
    changes: tuple[Change, ...]
    swap_pairs: PairSwaps | None = None
    noise_added: bool = False

    @property
    def noise_is_known(self) -> bool:
        """Whether noise was added, at whatever rate, or some thumbs differ from the clean ones.

        Without either the clean thumbs are the thumbs as they came, which say nothing of how many are wrong.
        """
        return self.noise_added or bool((labels_of(self.table) != labels_of(self.table, "desirable_clean")).any())


def values_of(table: Dataset, column: str) -> list[Any]:
    """A column at once: reading it row by row takes ten times as long."""
    return table[column][:]


def labels_of(table: Dataset, column: str = "desirable") -> NDArray[np.bool_]:
    """A column of labels, shape (examples,)."""
    return np.array(values_of(table, column), dtype=bool)


def relabelled(table: Dataset, labels: NDArray[np.bool_], name: str, parameters: Mapping[str, Any]) -> Corrupted:
    """The table with other labels, shape (examples,), in `desirable`.

    Raises:
        LabError: a class that was there is empty now.
    """
    flips = np.flatnonzero(labels_of(table) != labels)
    after = _with_labels(table, labels) if flips.size else table
    corrupted = _corrupted(table, after, flips, int(labels[flips].sum()), name, parameters)
    return replace(corrupted, noise_added=True)


def reduced(table: Dataset, rows: Sequence[int], name: str, parameters: Mapping[str, Any]) -> Corrupted:
    """The rows of the table that are to be kept, in the table's order.

    Raises:
        LabError: a class that was there is empty now.
    """
    removed = np.setdiff1d(np.arange(len(table)), np.array(rows, dtype=int))
    after = table.select(sorted(rows)) if removed.size else table
    return _corrupted(table, after, removed, 0, name, parameters)


def _corrupted(
    before: Dataset,
    after: Dataset,
    touched: NDArray[np.int64],
    flipped_to_desirable: int,
    name: str,
    parameters: Mapping[str, Any],
) -> Corrupted:
    counts = [(len(table), int(labels_of(table).sum())) for table in (before, after)]
    (n_before, up_before), (n_after, up_after) = counts
    for kind, had, has in (
        ("desirable", up_before, up_after),
        ("undesirable", n_before - up_before, n_after - up_after),
    ):
        if had and not has:
            keys = ", ".join(f"corruption.{key}" for key in parameters if key != "seed")
            raise LabError(f"{name} leaves none of the {had} {kind} examples. Choose milder values of {keys}.")
    identities = values_of(before, "example_id")
    removed = n_before - n_after
    change = Change(
        name=name,
        parameters=dict(parameters),
        examples_before=n_before,
        examples_after=n_after,
        desirable_before=up_before,
        desirable_after=up_after,
        flipped_to_desirable=flipped_to_desirable,
        flipped_to_undesirable=0 if removed else len(touched) - flipped_to_desirable,
        removed=removed,
        touched=content_hash(sorted(identities[row] for row in touched)) if len(touched) else "",
    )
    return Corrupted(after, (change,))


def _with_labels(table: Dataset, labels: NDArray[np.bool_]) -> Dataset:
    """The table with another `desirable`, its columns in the same order and of the same types."""
    arrow = table.with_format("arrow")[:]
    place = table.column_names.index("desirable")
    return Dataset(arrow.set_column(place, arrow.schema.field(place), [labels.tolist()]))
