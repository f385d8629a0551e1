"""Attention over a packed row: many sequences one after another, and no padding between them.

All else in a transformer looks at one token at a time, so a row of several sequences is exact as soon as each attends
to itself alone. A completion can also attend to a prompt that stands elsewhere in the row (several completions share
it), or in the row of an earlier pass whose keys and values were kept (`Kept`). Where the architecture has a sliding
window, a token sees that many of its own sequence, itself included. Scores can be softly capped (Gemma 2), and a sink
can take part of each softmax (gpt-oss).

The functions are registered with transformers as attention implementations. Without `segments` they are transformers'
own SDPA or, for an architecture that has none, its own eager attention.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from kto_lab.models.segments import Group, Segments

if TYPE_CHECKING:
    from peft import PeftModel

# By what an architecture has, the name of what packs its rows.
NAMES = {"sdpa": "sdpa_by_segment", "eager": "eager_by_segment"}
# What an architecture may ask of its attention beside this; what is not here, packed rows do not do.
PLAIN = {"is_causal": True, "position_bias": None}


class Scores(NamedTuple):
    """What becomes of the scores of queries and keys.

    Attributes:
        scaling: factor; None for 1 / sqrt(head size).
        window: how many tokens up to itself a token sees; None for all.
        softcap: c of c tanh(score / c); None for no cap.
        sinks: (heads,) a further score of each softmax, which nothing is read from; None for none.
    """

    scaling: float | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def are_plain(self) -> bool:
        """Whether SDPA and flash attention make them."""
        return self.softcap is None and self.sinks is None


class Kernel(NamedTuple):
    """One way to call the kernel that takes all segments at once.

    Attributes:
        heads: of queries.
        key_heads: of keys and values.
        size: of a head's queries and keys.
        value_size: of a head's values.
        scaling: as in `Scores`.
        reach: how many tokens up to itself a token sees, where that is fewer than there are; else None.
        number_format: of 16 bits.
        device: a GPU.
    """

    heads: int
    key_heads: int
    size: int
    value_size: int
    scaling: float | None
    reach: int | None
    number_format: torch.dtype
    device: torch.device


# What a trial of a kernel has found (`kernel_trial.py`): "" where it is right, else what is wrong; None before a trial.
tried: dict[Kernel, str | None] = {}


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
    scores = Scores(scaling, sliding_window, more.pop("softcap", None), more.pop("s_aux", None))
    odd = [name for name, usual in PLAIN.items() if more.get(name, usual) is not usual and more.get(name) is not None]
    if odd or len(query) != 1:
        raise ValueError(f"a packed row has no {', '.join(odd) or 'batch'}")
    if segments.keep is not None:
        segments.keep.states[module] = key.detach(), value.detach()
    kernel = _kernel(query, value, segments, scores)
    if kernel and not dropout and tried.setdefault(kernel, None) == "":
        return at_once(module, query, key, value, segments, scores, kernel.number_format), None
    return in_groups(module, query, key, value, segments, scores, dropout), None


def eager_by_segment(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Segments | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `by_segment`, for an architecture that has no SDPA: without segments, its own eager attention."""
    # Also where there are segments: rows of an architecture whose own attention is not found are not packed.
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise ValueError(f"the attention of {type(module).__name__} is not transformers' eager one")
    if segments is None:
        found: tuple[Tensor, Tensor | None] = own(module, query, key, value, attention_mask, **more)
        return found
    return by_segment(module, query, key, value, attention_mask, segments=segments, **more)


def in_groups(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scores: Scores,
    dropout: float = 0.0,
) -> Tensor:
    """(1, width, heads, size): one group of segments after another, in any number format and on any device."""
    queries, keys, values = (part[0].transpose(0, 1).flatten(1) for part in (query, key, value))
    if segments.seen:
        seen = [part[0].transpose(0, 1).flatten(1) for part in segments.seen.states[module]]
        keys, values = torch.cat([seen[0], keys]), torch.cat([seen[1], values])
    found = []
    for group in segments.groups(scores.window):
        number, longest, most = group.shape
        rows = [
            part.index_select(0, places).view(number, width, -1, size).transpose(1, 2)
            for part, places, width, size in (
                (queries, group.queries, longest, query.shape[-1]),
                (keys, group.keys, most, key.shape[-1]),
                (values, group.keys, most, value.shape[-1]),
            )
        ]
        out = _attended(rows[0], rows[1], rows[2], group, scores, dropout)
        found.append(out.transpose(1, 2).flatten(0, 1).index_select(0, group.real))
    return torch.cat(found).index_select(0, segments.order)[None]


def _attended(query: Tensor, key: Tensor, value: Tensor, group: Group, scores: Scores, dropout: float) -> Tensor:
    """(segments, heads, longest, size) attention of a group."""
    repeated = query.shape[1] // key.shape[1]
    if scores.are_plain:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=group.mask,
            dropout_p=dropout,
            is_causal=group.mask is None,
            scale=scores.scaling,
            enable_gqa=repeated != 1,
        )
    key, value = key.repeat_interleave(repeated, 1), value.repeat_interleave(repeated, 1)
    products = (query @ key.transpose(-1, -2)).float() * (scores.scaling or query.shape[-1] ** -0.5)
    if scores.softcap is not None:
        products = scores.softcap * (products / scores.softcap).tanh()
    mask = group.mask
    if mask is None:
        mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril()
    # Not -inf: a query that is padding may see nothing.
    products = products.masked_fill(~mask, torch.finfo(products.dtype).min)
    if scores.sinks is not None:
        sinks = scores.sinks.float().view(1, -1, 1, 1).expand(*products.shape[:-1], 1)
        products = torch.cat([products, sinks], -1)
    weights = F.dropout(products.softmax(-1)[..., : mask.shape[-1]], dropout)
    return weights.to(value.dtype) @ value


def at_once(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scores: Scores,
    number_format: torch.dtype,
    varlen: Any = varlen_attn,
) -> Tensor:
    """(1, width, heads, size): all segments in one kernel, which exists on CUDA and for 16-bit formats.

    Args:
        module: as in `by_segment`, like what follows.
        query: likewise.
        key: likewise.
        value: likewise.
        segments: of the row.
        scores: plain ones.
        number_format: in which the kernel computes.
        varlen: the kernel, called as torch's `varlen_attn`.
    """
    # Flash attention lines the last query up with the last key: what a completion after its prompt needs.
    keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    if segments.have_prompts:
        if segments.seen:
            seen = [part[0].transpose(0, 1) for part in segments.seen.states[module]]
            keys, values = torch.cat([seen[0], keys]), torch.cat([seen[1], values])
        keys, values = keys.index_select(0, segments.key_places), values.index_select(0, segments.key_places)
    reach = segments.reach(scores.window)
    found: Tensor = varlen(
        query[0].transpose(0, 1).to(number_format).contiguous(),
        keys.to(number_format).contiguous(),
        values.to(number_format).contiguous(),
        *segments.starts,
        segments.longest_own,
        segments.longest,
        scale=scores.scaling,
        # Flash attention counts the tokens before; -1 is all of them.
        window_size=(-1 if reach is None else reach - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found[None]


def _kernel(query: Tensor, value: Tensor, segments: Segments, scores: Scores) -> Kernel | None:
    """The call of the kernel that would do, if one would."""
    if not query.is_cuda or not scores.are_plain:
        return None
    # Under autocast rotary embeddings hand over float32, which SDPA's kernels would round, too.
    autocast = torch.is_autocast_enabled(query.device.type)
    number_format = torch.get_autocast_dtype(query.device.type) if autocast else query.dtype
    if number_format.itemsize != 2:
        return None
    return Kernel(
        heads=query.shape[1],
        key_heads=value.shape[1],
        size=query.shape[-1],
        value_size=value.shape[-1],
        scaling=scores.scaling,
        reach=segments.reach(scores.window),
        number_format=number_format,
        device=query.device,
    )


# What packs rows, by the name that a configuration has for it.
PACKING: dict[str, Callable[..., Any]] = {NAMES["sdpa"]: by_segment, NAMES["eager"]: eager_by_segment}
for _name, _function in PACKING.items():
    AttentionInterface.register(_name, _function)
AttentionMaskInterface.register(NAMES["sdpa"], sdpa_mask)
AttentionMaskInterface.register(NAMES["eager"], eager_mask)


def packs(model: "PreTrainedModel | PeftModel") -> bool:
    """Whether rows of this model are packed."""
    return model.config._attn_implementation in PACKING


def set_packing(model: "PreTrainedModel | PeftModel", on: bool) -> None:
    """Pack this model's rows, or lay them out with padding; for a model whose attention is the default of its kind."""
    own = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
    if model.config._attn_implementation in (own, NAMES[own]):
        model.config._attn_implementation = NAMES[own] if on else own
