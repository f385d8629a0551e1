"""How token sequences become rows of a forward pass, without wasted tokens.

A unit is what a loss looks at together: one completion, or a pair of completions. Units whose prompts are the same can
share a row, so that the prompt is run once and each completion attends to the prompt and to itself:

    prompt | completion 1 | completion 2 | ...        positions: 0..P-1 | P.. | P.. | ...

The last token of a completion is only ever predicted, so it is not fed. This module knows lengths and indices; it knows
nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kto_lab.models.sequences import Unit


@dataclass
class Row:
    """One row of a forward pass: a prompt and the units that continue it.

    Attributes:
        length: tokens fed: prompt and completions, each completion without its last token.
        units: indices of the units in the row.
    """

    length: int
    units: list[int] = field(default_factory=list)


def added_length(unit: Unit) -> int:
    """Tokens that a unit's completions add to a row that holds their prompt."""
    return sum(len(sequence.completion) - 1 for sequence in unit)


def make_rows(units: Sequence[Unit], *, token_budget: int, share_prompts: bool) -> list[Row]:
    """Lay units out in rows.

    Args:
        units: each a completion or a pair of one prompt.
        token_budget: no row that holds several units is longer than this.
        share_prompts: whether units of one prompt may share a row.
    """
    rows: list[Row] = []
    open_rows: dict[tuple[int, ...], Row] = {}
    for index, unit in enumerate(units):
        prompt, added = unit[0].prompt, added_length(unit)
        row = open_rows.get(prompt) if share_prompts else None
        if row is None or row.length + added > token_budget:
            row = open_rows[prompt] = Row(length=len(prompt))
            rows.append(row)
        row.units.append(index)
        row.length += added
    return rows


def fed_tokens(batch: Sequence[Unit], *, share_prompts: bool, packed: bool) -> tuple[int, int]:
    """Tokens of a micro-batch: those that are real, and those that are fed, padding included."""
    # As they are fed: sequence by sequence, where prompts are not shared.
    units: Sequence[Unit] = batch if share_prompts else [[sequence] for unit in batch for sequence in unit]
    lengths = [row.length for row in make_rows(units, token_budget=2**62, share_prompts=share_prompts)]
    return sum(lengths), sum(lengths) if packed else len(lengths) * max(lengths)


def padding(micro_batches: Sequence[Sequence[Unit]], *, share_prompts: bool, packed: bool) -> float:
    """The share of what is fed that is padding, over some micro-batches; see `cut_micro_batches`."""
    counts = [fed_tokens(batch, share_prompts=share_prompts, packed=packed) for batch in micro_batches]
    return 1 - sum(real for real, _ in counts) / sum(fed for _, fed in counts)


def cut_micro_batches(
    units: Sequence[Unit], *, token_budget: int, share_prompts: bool, packed: bool = False
) -> list[list[int]]:
    """Cut a batch into micro-batches of rows of similar length.

    Args:
        units: the units of the batch.
        token_budget: tokens stay within this, padding included, except where one row alone exceeds it.
        share_prompts: whether units of one prompt may share a row.
        packed: whether rows are run one after another without padding.

    Returns:
        For each micro-batch the indices of its units. Every unit is in exactly one.
    """
    rows = make_rows(units, token_budget=token_budget, share_prompts=share_prompts)
    batches = cut_rows(rows, token_budget=token_budget, packed=packed)
    return [[unit for row in batch for unit in row.units] for batch in batches]


def cut_rows(rows: Sequence[Row], *, token_budget: int, packed: bool) -> list[list[Row]]:
    """As `cut_micro_batches`, for rows that are laid out."""
    batches: list[list[Row]] = []
    members: list[Row] = []
    for row in sorted(rows, key=lambda row: row.length):
        fed = sum(member.length for member in members) + row.length if packed else (len(members) + 1) * row.length
        if members and fed > token_budget:
            batches.append(members)
            members = []
        members.append(row)
    return [*batches, members]
