"""Where the tokens of sequences stand in the tensors of a forward pass: packed in one row, or in rows with padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kto_lab.models.rows import make_rows
from kto_lab.models.segments import Segment, Span
from kto_lab.models.sequences import Unit

_SAYS_NOTHING = torch.ones(1, 1, 1, 1, dtype=torch.bool)


@dataclass(frozen=True)
class Layout:
    """Token ids of rows, and where in them each completion token is predicted.

    Attributes:
        input_ids: (rows, width) token ids; where there is padding, it is on the right.
        position_ids: (rows, width) positions; a completion starts where its prompt ends.
        mask: (rows, width) bool of real tokens, or a (rows, 1, width, width) bool attention mask. Packed rows have
            segments instead, and a mask of one entry that says nothing.
        segments: of a packed row; empty where there is padding.
        prompts: where the prompt of each sequence stands in a packed row; empty where there is padding.
        predict_at: (tokens,) index into the flattened (rows * width) positions, one for each completion token.
        targets: (tokens,) the token predicted there.
        counts: tokens of each completion, in the order of the sequences.
        real: tokens that are not padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    segments: list[Segment]
    prompts: list[Span]
    predict_at: Tensor
    targets: Tensor
    counts: list[int]
    real: int


def packed(units: Sequence[Unit], *, share_prompts: bool) -> Layout:
    """One row that holds all sequences, one after another.

    Args:
        units: the sequences, in units; a unit of several completions only where prompts are shared.
        share_prompts: completions of one prompt follow it, and the prompt is there once.
    """
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    predict_at: dict[tuple[int, int], list[int]] = {}
    prompts: dict[tuple[int, int], Span] = {}
    for row in make_rows(units, token_budget=2**62, share_prompts=share_prompts):
        tokens = units[row.units[0]][0].prompt
        prompt = Span(len(ids), len(ids) + len(tokens))
        ids += tokens
        positions += range(len(tokens))
        first = True
        for key in ((unit, place) for unit in row.units for place in range(len(units[unit]))):
            fed = units[key[0]][key[1]].completion[:-1]
            own = Span(len(ids), len(ids) + len(fed))
            ids += fed
            positions += range(len(tokens), len(tokens) + len(fed))
            if first:  # what follows its prompt without a gap is one sequence with it
                segments.append(Segment(Span(prompt.start, own.end)))
            elif fed:
                segments.append(Segment(own, prompt))
            first = False
            prompts[key] = prompt
            predict_at[key] = [prompt.end - 1, *range(*own)]
    order = _order(units)
    return Layout(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        mask=_SAYS_NOTHING,
        segments=segments,
        prompts=[prompts[key] for key in order],
        predict_at=torch.tensor([index for key in order for index in predict_at[key]]),
        targets=_targets(units),
        counts=_counts(units),
        real=len(ids),
    )


def continued(prompts: Sequence[Span], completions: Sequence[tuple[int, ...]]) -> Layout:
    """One row that holds completions alone, which follow prompts of another packed row.

    Args:
        prompts: where in that row the prompts stand, one per completion.
        completions: token ids.

    Returns:
        The layout. `predict_at` counts the prompts' ends first, one per completion, and then the tokens of this row.
    """
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    predict_at: list[int] = []
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        fed = completion[:-1]
        own, length = Span(len(ids), len(ids) + len(fed)), prompt.end - prompt.start
        ids += fed
        positions += range(length, length + len(fed))
        if fed:
            segments.append(Segment(own, prompt))
        predict_at += [number, *range(len(prompts) + own.start, len(prompts) + own.end)]
    return Layout(
        input_ids=torch.tensor([ids], dtype=torch.long),
        position_ids=torch.tensor([positions], dtype=torch.long),
        mask=_SAYS_NOTHING,
        segments=segments,
        prompts=list(prompts),
        predict_at=torch.tensor(predict_at),
        targets=torch.tensor([token for completion in completions for token in completion]),
        counts=[len(completion) for completion in completions],
        real=len(ids),
    )


def padded(units: Sequence[Unit], *, pad_id: int, share_prompts: bool) -> Layout:
    """A row for each sequence, or for each prompt with its completions where prompts are shared; see `packed`."""
    rows = make_rows(units, token_budget=2**62, share_prompts=share_prompts)
    width = max(row.length for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    position_ids = torch.zeros((len(rows), width), dtype=torch.long)
    segment = torch.full((len(rows), width), -1)  # -1 padding, 0 prompt, 1.. the completions
    spans: dict[tuple[int, int], list[int]] = {}
    for number, row in enumerate(rows):
        prompt = units[row.units[0]][0].prompt
        at = len(prompt)
        input_ids[number, :at] = torch.tensor(prompt)
        position_ids[number, :at] = torch.arange(at)
        segment[number, :at] = 0
        members = [(unit, place) for unit in row.units for place in range(len(units[unit]))]
        for part, (unit, place) in enumerate(members, start=1):
            fed = units[unit][place].completion[:-1]
            end = at + len(fed)
            input_ids[number, at:end] = torch.tensor(fed, dtype=torch.long)
            position_ids[number, at:end] = torch.arange(len(prompt), len(prompt) + len(fed))
            segment[number, at:end] = part
            first = number * width + len(prompt) - 1
            spans[unit, place] = [first, *range(number * width + at, number * width + end)]
            at = end
    return Layout(
        input_ids=input_ids,
        position_ids=position_ids,
        mask=_shared_mask(segment) if share_prompts else segment >= 0,
        segments=[],
        prompts=[],
        predict_at=torch.tensor([index for key in _order(units) for index in spans[key]]),
        targets=_targets(units),
        counts=_counts(units),
        real=int((segment >= 0).sum()),
    )


def _order(units: Sequence[Unit]) -> list[tuple[int, int]]:
    return [(unit, place) for unit in range(len(units)) for place in range(len(units[unit]))]


def _targets(units: Sequence[Unit]) -> Tensor:
    return torch.tensor([token for unit in units for sequence in unit for token in sequence.completion])


def _counts(units: Sequence[Unit]) -> list[int]:
    return [len(sequence.completion) for unit in units for sequence in unit]


def _shared_mask(segment: Tensor) -> Tensor:
    """(rows, 1, width, width) bool attention mask: each token sees the prompt and earlier tokens of its completion."""
    width = segment.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    own = segment[:, :, None] == segment[:, None, :]
    to_prompt = (segment[:, None, :] == 0) & (segment[:, :, None] >= 0)
    # A padding token sees itself: a row of the softmax without any entry would be NaN.
    return ((own | to_prompt) & causal)[:, None]
