"""Dealing a batch to the processes of a run, so that none waits long for another.

A step ends when its slowest process does, and the time of a process goes with the tokens that it is fed. So rows are
dealt longest first, each to the process that has the fewest tokens so far. All processes run as many micro-batches, for
they talk to one another in each of them (fsdp) or at the last (ddp). The gradient is a sum over units, and so does not
depend on who has which.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kto_lab.errors import LabError
from kto_lab.models.rows import Row, added_length, cut_rows, fed_tokens, make_rows
from kto_lab.models.sequences import Unit


@dataclass(frozen=True)
class Dealt:
    """A batch, dealt.

    Attributes:
        shares: for each process its micro-batches, for each of these the indices of its units.
        tokens: that each process is fed, padding included.
    """

    shares: list[list[list[int]]]
    tokens: list[int]


def deal(
    units: Sequence[Unit],
    *,
    processes: int,
    token_budget: int,
    share_prompts: bool,
    packed: bool,
    apart: bool = False,
) -> Dealt:
    """Deal the units of a batch to processes, and cut each share into micro-batches.

    Args:
        units: the units of the batch.
        processes: how many share it.
        token_budget: tokens of a micro-batch; more only where one row alone exceeds it, or where another process has
            too few units for as many micro-batches.
        share_prompts: whether units of one prompt may share a row.
        packed: whether rows are run one after another without padding.
        apart: each unit is a micro-batch of its own, and the processes have as many units.

    Raises:
        LabError: there are fewer units than processes.
    """
    if len(units) < processes:
        raise LabError(
            f"A batch of {len(units)} cannot be shared by {processes} processes. Raise optimization.batch_size to at "
            f"least {processes}, or use fewer devices."
        )
    if apart:
        rows = [_row(units, [index]) for index in range(len(units))]
        bins = _longest_first(rows, processes, most=len(units) // processes)
        cut = [[[row] for row in sorted(own, key=lambda row: row.units)] for own in bins]
    else:
        rows = make_rows(units, token_budget=token_budget, share_prompts=share_prompts)
        bins = _longest_first(_divided(rows, units, processes), processes, most=len(units))
        cut = [cut_rows(own, token_budget=token_budget, packed=packed) for own in bins]
        fewest = min(sum(len(row.units) for row in own) for own in bins)
        count = min(max(map(len, cut)), fewest)
        cut = [_as_many(batches, count, units) for batches in cut]
    shares = [[[unit for row in batch for unit in row.units] for batch in batches] for batches in cut]
    tokens = [
        sum(
            fed_tokens([units[unit] for unit in batch], share_prompts=share_prompts, packed=packed)[1]
            for batch in batches
        )
        for batches in shares
    ]
    return Dealt(shares, tokens)


def _longest_first(rows: Sequence[Row], processes: int, *, most: int) -> list[list[Row]]:
    """Rows in bins: the longest first, each into the emptiest that holds fewer than `most`."""
    bins: list[list[Row]] = [[] for _ in range(processes)]
    filled = [0] * processes
    for row in sorted(rows, key=lambda row: (-row.length, row.units)):
        chosen = min((place for place in range(processes) if len(bins[place]) < most), key=filled.__getitem__)
        bins[chosen].append(row)
        filled[chosen] += row.length
    return bins


def _divided(rows: Sequence[Row], units: Sequence[Unit], processes: int) -> list[Row]:
    """Rows of which each process can have one, and none of several units is longer than an even share."""
    rows = list(rows)
    while shared := [row for row in rows if len(row.units) > 1]:
        longest = max(shared, key=lambda row: row.length)
        if len(rows) >= processes and longest.length * processes <= sum(row.length for row in rows):
            break
        rows.remove(longest)
        rows += _halves(longest, units)
    return rows


def _as_many(batches: list[list[Row]], count: int, units: Sequence[Unit]) -> list[list[Row]]:
    """Micro-batches, divided or joined until there are `count`."""

    def tokens(batch: list[Row]) -> int:
        return sum(row.length for row in batch)

    batches = list(batches)
    while len(batches) < count:
        largest = max((batch for batch in batches if len(batch) > 1 or len(batch[0].units) > 1), key=tokens)
        place, half = batches.index(largest), len(largest) // 2
        parts = [largest[:half], largest[half:]] if half else [[row] for row in _halves(largest[0], units)]
        batches[place : place + 1] = parts
    while len(batches) > count:
        first, second, *others = sorted(batches, key=tokens)
        batches = [first + second, *others]
    return batches


def _halves(row: Row, units: Sequence[Unit]) -> list[Row]:
    half = len(row.units) // 2
    return [_row(units, row.units[:half]), _row(units, row.units[half:])]


def _row(units: Sequence[Unit], members: list[int]) -> Row:
    length = len(units[members[0]][0].prompt) + sum(added_length(units[member]) for member in members)
    return Row(length, members)
