"""The segments of a packed row, and where the tensors of its attention are: worked out once for all layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kto_lab.models.placing import placed

# Scores of padding that a group of segments may have: about what one call more would cost on a CPU.
WASTED = 16384
CPU = torch.device("cpu")


class Span(NamedTuple):
    """Where tokens stand in a packed row."""

    start: int
    end: int


@dataclass(frozen=True)
class Segment:
    """Tokens in a row that attend to one another causally, and to a prompt before them.

    Attributes:
        own: where they stand.
        prompt: where the prompt stands that they follow, if it is not among them.
    """

    own: Span
    prompt: Span | None = None

    @property
    def queries(self) -> int:
        """Its tokens."""
        return self.own.end - self.own.start

    @property
    def keys(self) -> int:
        """Tokens that its last token attends to."""
        return self.queries + (self.prompt.end - self.prompt.start if self.prompt else 0)


@dataclass
class Kept:
    """Keys and values of a pass over a packed row, by attention module, without their graph."""

    states: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Segments that go through attention together, with padding there and nowhere else.

    Attributes:
        shape: segments, and queries and keys of the longest.
        queries: (segments * longest,) places in the row.
        keys: (segments * longest,) places in the row, or in the row after the one that was seen.
        mask: (segments, 1, longest, longest) bool of who sees whom; None where all is causal and nothing padding, and
            no window is shorter.
        real: (tokens,) which of the queries are no padding.
    """

    shape: tuple[int, int, int]
    queries: Tensor
    keys: Tensor
    mask: Tensor | None
    real: Tensor


@dataclass(frozen=True)
class Segments:
    """A packed row's segments, in order and without a gap.

    All tensors are made when the first layer asks for them and serve the others, so that no layer waits for a copy.

    Attributes:
        parts: the segments.
        keep: takes the keys and values of the pass.
        seen: where the prompts stand, if not in this row.
        seen_width: tokens of the row that was seen.
        device: that of the row.
    """

    parts: Sequence[Segment]
    keep: Kept | None = None
    seen: Kept | None = None
    seen_width: int = 0
    device: torch.device = CPU

    def reach(self, window: int | None) -> int | None:
        """How many tokens up to itself a token sees, where that is fewer than there are; else None."""
        return window if window is not None and window < self.longest else None

    def groups(self, window: int | None = None) -> list[Group]:
        """The segments in groups of similar size: few calls, and little padding within them.

        Args:
            window: how many tokens up to itself a token sees; None for all. Layers of one model can differ in it.
        """
        reach = self.reach(window)
        if reach not in self._groups:
            self._groups[reach] = [self._grouped(group, reach) for group in self._alike]
        return self._groups[reach]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(part.keys for part in self.parts)

    @cached_property
    def longest_own(self) -> int:
        """Tokens of the longest segment."""
        return max(part.queries for part in self.parts)

    @cached_property
    def have_prompts(self) -> bool:
        """Whether a segment follows a prompt that is not among it."""
        return any(part.prompt for part in self.parts)

    @cached_property
    def order(self) -> Tensor:
        """Of each place of the row where it stands among the groups' real tokens, one group after another."""
        spans = [part.own for group in self._alike for part in group]
        return placed(_ranges(spans).argsort(), self.device)

    @cached_property
    def key_places(self) -> Tensor:
        """The places of all keys, segment by segment, counted from the start of the row that was seen, if one was."""
        spans = []
        for part in self.parts:
            if part.prompt:
                spans.append(self._of_prompt(part.prompt))
            spans.append(self._of_own(part.own))
        return placed(_ranges(spans), self.device)

    @cached_property
    def starts(self) -> tuple[Tensor, Tensor]:
        """(segments + 1,) int32 where each segment's queries start, and where its keys do in `key_places`."""
        own, keys = (
            [0, *accumulate(counts)] for counts in zip(*((p.queries, p.keys) for p in self.parts), strict=True)
        )
        both = placed(torch.tensor([own, keys], dtype=torch.int32), self.device)
        return both[0], both[1]

    @cached_property
    def _groups(self) -> dict[int | None, list[Group]]:
        return {}

    @cached_property
    def _alike(self) -> list[list[Segment]]:
        groups: list[list[Segment]] = []
        longest = filled = 0
        for part in sorted(self.parts, key=lambda part: (part.keys, part.queries)):
            own, keys = part.queries, part.keys
            most = max(longest, own)
            # The last has the most keys.
            if groups and (len(groups[-1]) + 1) * most * keys - (filled + own * keys) <= WASTED:
                groups[-1].append(part)
                longest, filled = most, filled + own * keys
            else:
                groups.append([part])
                longest, filled = own, own * keys
        return groups

    def _grouped(self, parts: Sequence[Segment], reach: int | None) -> Group:
        columns = torch.tensor(
            [
                (
                    self._of_own(part.own).start,
                    part.queries,
                    part.keys,
                    self._of_prompt(part.prompt or Span(0, 0)).start,
                )
                for part in parts
            ]
        )
        starts, own, seen, prompts = columns.T[..., None]
        query, key = torch.arange(int(own.max()))[None], torch.arange(int(seen.max()))[None]
        is_real = query < own
        before = seen - own
        key_places = torch.where(key < before, prompts + key, starts + key - before)
        plain = reach is None and bool((own == own[0]).all() and (seen == own).all())
        return Group(
            shape=(len(parts), query.shape[1], key.shape[1]),
            queries=placed(torch.where(is_real, starts - self._offset + query, 0).flatten(), self.device),
            keys=placed(torch.where(key < seen, key_places, 0).flatten(), self.device),
            mask=None if plain else _mask(placed(columns[:, 1:3], self.device), query.shape[1], key.shape[1], reach),
            real=placed(is_real.flatten().nonzero()[:, 0], self.device),
        )

    @property
    def _offset(self) -> int:
        """Where this row's keys start."""
        return self.seen_width

    def _of_own(self, own: Span) -> Span:
        return Span(self._offset + own.start, self._offset + own.end)

    def _of_prompt(self, prompt: Span) -> Span:
        return prompt if self.seen else self._of_own(prompt)


def _ranges(spans: Sequence[Span]) -> Tensor:
    """The numbers of some spans, one span after another."""
    starts, ends = torch.tensor(spans).T
    lengths = ends - starts
    # What is to be added to the number of a place in the result.
    away = starts - (lengths.cumsum(0) - lengths)
    return torch.arange(int(lengths.sum())) + away.repeat_interleave(lengths)


def _mask(counts: Tensor, queries: int, keys: int, reach: int | None) -> Tensor:
    """(segments, 1, queries, keys) bool of who sees whom.

    Args:
        counts: (segments, 2) queries and keys of each.
        queries: of the longest.
        keys: likewise.
        reach: how many tokens up to itself a token sees; None for all.
    """
    own, seen = counts[:, 0, None, None], counts[:, 1, None, None]
    query, key = torch.arange(queries, device=counts.device)[:, None], torch.arange(keys, device=counts.device)
    # A query's place in its sequence, prompt included; keys count from the sequence's start.
    place = query + seen - own
    mask = (key < seen) & (key <= place)
    if reach is not None:
        mask &= key > place - reach
    return mask[:, None]
