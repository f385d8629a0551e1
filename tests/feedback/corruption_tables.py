"""Tables and helpers that the tests of the corruption lab share."""

import itertools
from collections.abc import Callable
from typing import Any

from datasets import Dataset

from kto_lab.feedback.corruption import Corrupted
from kto_lab.feedback.table import build_table

Corruption = Callable[[Dataset], Corrupted]


def table_of(prompts: int = 30, **columns: Callable[[int, bool], Any]) -> Dataset:
    """Three desirable and two undesirable completions per prompt, of many lengths; more columns by (number, label)."""
    rows = []
    for prompt in range(prompts):
        for answer in range(5):
            number, label = 5 * prompt + answer, answer < 3
            more = {name: value(number, label) for name, value in columns.items()}
            completion = f"{answer} " + "x" * (number * 37 % 101)
            rows.append({"prompt": f"prompt {prompt}", "completion": completion, "desirable": label, **more})
    return build_table(rows, source="test", held_out=0.0)


def score(number: int, label: bool) -> float:
    """From 0.05 to 3, positive for a desirable example."""
    return (number * 53 % 60 + 1) / 20 * (1 if label else -1)


def ratings(number: int, label: bool) -> list[float]:
    """Nine ratings with dissent in some; their sum has the sign of the label."""
    dissent = number % 4
    given = [-3.0, -2.0, -1.0][:dissent] + [0.0] + [2.0] * (8 - dissent)
    return [rating if label else -rating for rating in given]


def rated_table(prompts: int = 30) -> Dataset:
    """A table whose examples have scores and ratings."""
    return table_of(prompts, score=score, ratings=ratings)


def flips(before: Dataset, after: Dataset) -> set[str]:
    """The identities of the examples with another label than before."""
    had = dict(zip(before["example_id"][:], before["desirable"][:], strict=True))
    return {
        name for name, label in zip(after["example_id"][:], after["desirable"][:], strict=True) if had[name] != label
    }


def kept(corrupted: Corrupted) -> set[str]:
    """The identities of the examples that are left."""
    return set(corrupted.table["example_id"][:])


def assert_sound(table: Dataset, corruption: Corruption) -> Corrupted:
    """What holds for every corruption: determinism, no dependence on row order, honest counts, all else untouched."""
    corrupted = corruption(table)
    assert corruption(table).changes == corrupted.changes
    assert corrupted.table.features == table.features
    shuffled = corruption(table.shuffle(seed=3))
    assert shuffled.changes == corrupted.changes
    by_name = {row["example_id"]: row for row in table}
    after = {row["example_id"]: row for row in corrupted.table}
    assert after == {row["example_id"]: row for row in shuffled.table}
    order = [name for name in table["example_id"][:] if name in after]
    assert list(corrupted.table["example_id"][:]) == order, "rows keep the table's order"
    for name, row in after.items():
        assert {**row, "desirable": by_name[name]["desirable"]} == by_name[name], "only `desirable` may differ"
    (change,) = corrupted.changes
    flipped = flips(table, corrupted.table)
    up = sum(after[name]["desirable"] for name in flipped)
    assert (change.flipped_to_desirable, change.flipped_to_undesirable) == (up, len(flipped) - up)
    assert (change.examples_before, change.examples_after) == (len(table), len(after))
    assert change.removed == len(table) - len(after)
    assert (change.desirable_before, change.desirable_after) == (
        sum(table["desirable"][:]),
        sum(corrupted.table["desirable"][:]),
    )
    assert (change.touched == "") == (not flipped and not change.removed)
    return corrupted


def assert_chain(sets: list[set[str]]) -> None:
    """Each set lies within the next, and the last is larger than the first."""
    assert all(small <= large for small, large in itertools.pairwise(sets))
    assert len(sets[0]) < len(sets[-1])
