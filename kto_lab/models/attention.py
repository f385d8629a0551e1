"""Attention over a packed row: many sequences one after another, and no padding between them.

All else in a transformer looks at one token at a time, so a row of several sequences is exact as soon as each attends
to itself alone. A completion can also attend to a prompt that stands elsewhere in the row (several completions share
it), or in the row of an earlier pass whose keys and values were kept (`Kept`). Where the architecture has a sliding
window, a token sees that many of its own sequence, itself included.

The function is registered with transformers as an attention implementation. Without `segments` it is transformers' own
SDPA.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

if TYPE_CHECKING:
    from peft import PeftModel

NAME = "sdpa_by_segment"
# Scores of padding that a group of segments may have: about what one call more would cost on a CPU.
WASTED = 16384
# What an architecture may ask of its attention beside this; what is not here, packed rows do not do.
PLAIN = {"is_causal": True, "softcap": None, "position_bias": None, "s_aux": None}


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
        queries: (segments, longest) places in the row.
        keys: (segments, longest) places in the row, or in the row after the one that was seen.
        mask: (segments, 1, longest, longest) bool of who sees whom; None where all is causal and nothing padding, and
            no window is shorter.
        real: (tokens,) which of the flattened queries are no padding.
        places: (tokens,) where in the row they stand.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None
    real: Tensor
    places: Tensor


@dataclass(frozen=True)
class Segments:
    """A packed row's segments, in order and without a gap.

    Attributes:
        parts: the segments.
        keep: takes the keys and values of the pass.
        seen: where the prompts stand, if not in this row.
        seen_width: tokens of the row that was seen.
    """

    parts: Sequence[Segment]
    keep: Kept | None = None
    seen: Kept | None = None
    seen_width: int = 0

    def groups(self, window: int | None = None) -> list[Group]:
        """The segments in groups of similar size: few calls, and little padding within them.

        Args:
            window: how many tokens up to itself a token sees; None for all. Layers of one model can differ in it.
        """
        reach = window if window is not None and window < self.longest else None
        if reach not in self._groups:
            self._groups[reach] = [self._grouped(group, reach) for group in self._alike]
        return self._groups[reach]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(part.keys for part in self.parts)

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

    @cached_property
    def order(self) -> Tensor:
        """Of each place of the row where it stands among the groups' real tokens, one group after another."""
        return torch.cat([group.places for group in self.groups()]).argsort()

    @cached_property
    def key_places(self) -> Tensor:
        """The places of all keys, segment by segment, counted from the start of the row that was seen, if one was."""
        group = self._grouped(self.parts)
        keys = torch.tensor([part.keys for part in self.parts])[:, None]
        return group.keys[torch.arange(group.keys.shape[1])[None] < keys]

    def _grouped(self, parts: Sequence[Segment], window: int | None = None) -> Group:
        starts = torch.tensor([part.own.start for part in parts])[:, None]
        own = torch.tensor([part.queries for part in parts])[:, None]
        seen = torch.tensor([part.keys for part in parts])[:, None]
        query, key = torch.arange(int(own.max()))[None], torch.arange(int(seen.max()))[None]
        is_real = query < own
        queries = torch.where(is_real, starts + query, 0)
        plain = window is None and bool((own == own[0]).all() and (seen == own).all())
        # A query's place in its sequence, prompt included; keys count from the sequence's start.
        place = query[..., None] + (seen - own)[..., None]
        mask = (key[:, None] < seen[..., None]) & (key[:, None] <= place)
        if window is not None:
            mask &= key[:, None] > place - window
        return Group(
            queries=queries,
            keys=torch.where(key < seen, self._places(parts, key, seen - own, starts), 0),
            mask=None if plain else mask[:, None],
            real=is_real.flatten().nonzero()[:, 0],
            places=queries[is_real],
        )

    def _places(self, parts: Sequence[Segment], key: Tensor, before: Tensor, starts: Tensor) -> Tensor:
        """(segments, keys) places of keys, of which the first `before` are the prompt's."""
        prompts = torch.tensor([part.prompt.start if part.prompt else 0 for part in parts])[:, None]
        prompts = prompts if self.seen else prompts + self.seen_width
        return torch.where(key < before, prompts + key, self.seen_width + starts + key - before)


def by_segment(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: SDPA, or segment by segment where `segments` are given.

    Args:
        module: the attention module.
        query: (rows, heads, width, size).
        key: (rows, key heads, width, size).
        value: likewise.
        attention_mask: of SDPA; packed rows need none.
        dropout: probability.
        scaling: of the scores.
        segments: of the one packed row.
        sliding_window: how many tokens up to itself a token sees; None for all. Masks that are given have it already.
        more: what the architecture asks for beside.

    Raises:
        ValueError: it asks for something that packed rows do not do.
    """
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    odd = [name for name, usual in PLAIN.items() if more.get(name, usual) not in (usual, None)]
    if odd or len(query) != 1:
        raise ValueError(f"a packed row has no {', '.join(odd) or 'batch'}")
    if segments.keep is not None:
        segments.keep.states[module] = key.detach(), value.detach()
    # Under autocast rotary embeddings hand over float32, which SDPA's kernels would round, too.
    autocast = torch.is_autocast_enabled(query.device.type)
    number_format = torch.get_autocast_dtype(query.device.type) if autocast else query.dtype
    if query.is_cuda and number_format.itemsize == 2 and not dropout:
        return _at_once(module, query, key, value, scaling, segments, sliding_window, number_format), None
    return _in_groups(module, query, key, value, dropout, scaling, segments, sliding_window), None


def _in_groups(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float,
    scaling: float | None,
    segments: Segments,
    window: int | None,
) -> Tensor:
    """(1, width, heads, size): SDPA for one group of segments after another."""
    queries, keys, values = (part[0].transpose(0, 1).flatten(1) for part in (query, key, value))
    if segments.seen:
        seen = [part[0].transpose(0, 1).flatten(1) for part in segments.seen.states[module]]
        keys, values = torch.cat([seen[0], keys]), torch.cat([seen[1], values])
    size, found = query.shape[-1], []
    for group in segments.groups(window):
        rows = [
            part.index_select(0, places.flatten().to(part.device)).view(*places.shape, -1, size).transpose(1, 2)
            for part, places in ((queries, group.queries), (keys, group.keys), (values, group.keys))
        ]
        out = F.scaled_dot_product_attention(
            rows[0],
            rows[1],
            rows[2],
            attn_mask=None if group.mask is None else group.mask.to(query.device),
            dropout_p=dropout,
            is_causal=group.mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        found.append(out.transpose(1, 2).flatten(0, 1).index_select(0, group.real.to(out.device)))
    return torch.cat(found).index_select(0, segments.order.to(query.device))[None]


def _at_once(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    segments: Segments,
    window: int | None,
    number_format: torch.dtype,
) -> Tensor:
    """(1, width, heads, size): all segments in one kernel, which exists on CUDA and for 16-bit formats."""
    # Flash attention lines the last query up with the last key: what a completion after its prompt needs.
    keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    if any(part.prompt for part in segments.parts):
        if segments.seen:
            seen = [part[0].transpose(0, 1) for part in segments.seen.states[module]]
            keys, values = torch.cat([seen[0], keys]), torch.cat([seen[1], values])
        keys, values = keys[segments.key_places.to(key.device)], values[segments.key_places.to(key.device)]
    own, most = [part.queries for part in segments.parts], [part.keys for part in segments.parts]
    found = varlen_attn(
        query[0].transpose(0, 1).to(number_format).contiguous(),
        keys.to(number_format).contiguous(),
        values.to(number_format).contiguous(),
        _starts(own, key.device),
        _starts(most, key.device),
        max(own),
        max(most),
        scale=scaling,
        # Flash attention counts the tokens before; -1 is all of them.
        window_size=(-1 if window is None or window >= segments.longest else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, Tensor)
    return found[None]


def _starts(lengths: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


AttentionInterface.register(NAME, by_segment)
AttentionMaskInterface.register(NAME, sdpa_mask)


def packs(model: "PreTrainedModel | PeftModel") -> bool:
    """Whether rows of this model are packed."""
    return bool(model.config._attn_implementation == NAME)


def set_packing(model: "PreTrainedModel | PeftModel", on: bool) -> None:
    """Pack this model's rows, or lay them out with padding; for a model whose attention is SDPA."""
    if model.config._attn_implementation in ("sdpa", NAME):
        model.config._attn_implementation = NAME if on else "sdpa"
