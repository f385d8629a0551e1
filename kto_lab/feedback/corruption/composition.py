"""No corruption, and several corruptions one after another."""

from collections import Counter
from collections.abc import Callable

from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.corruption.changes import Change, Corrupted, PairSwaps
from kto_lab.feedback.corruption.flips import DRAWN_ALIKE

Corruption = Callable[[Dataset], Corrupted]


def unchanged(table: Dataset) -> Corrupted:
    """The training rows as they are."""
    return Corrupted(table, ())


def compose(table: Dataset, *, first: Corruption, second: Corruption, third: Corruption) -> Corrupted:
    """Three corruptions in this order, each on what the one before left; swaps of pairs come after them all.

    Raises:
        LabError: one of them refuses its keys or the table, two of them swap pairs, or two kinds of label noise have
            one seed.
    """
    changes: tuple[Change, ...] = ()
    swaps: PairSwaps | None = None
    noise_added = False
    for place, corruption in (("first", first), ("second", second), ("third", third)):
        try:
            corrupted = corruption(table)
        except LabError as error:
            # The corruption knows its keys, but not its place in the composition.
            raise LabError(str(error).replace("corruption.", f"corruption.{place}.")) from error
        if swaps and corrupted.swap_pairs:
            raise LabError(
                f"corruption.{place} swaps pairs, and so does one before it; swaps of swaps would undo each other. "
                "Use one, with the rate that is meant."
            )
        table, changes, swaps = corrupted.table, changes + corrupted.changes, corrupted.swap_pairs or swaps
        noise_added = noise_added or corrupted.noise_added
        _refuse_equal_draws(changes, place)
    return Corrupted(table, changes, swaps, noise_added)


def _refuse_equal_draws(changes: tuple[Change, ...], place: str) -> None:
    seeds = Counter(change.parameters["seed"] for change in changes if change.name in DRAWN_ALIKE)
    if repeated := [seed for seed, count in seeds.items() if count > 1]:
        raise LabError(
            f"corruption.{place} adds label noise with the seed {repeated[0]} of a label noise before it: it would "
            f"draw the same examples, and turn them back. Set corruption.{place}.seed to another number, such as 1000, "
            "which no run has as its own seed."
        )
