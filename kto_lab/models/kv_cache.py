"""Keys and values of generation in tensors with room for the next tokens.

transformers' own cache makes each layer's tensors anew for every token, so that a long answer copies all that came
before it again and again. With room at their end a token is written in place; the values are the same.

Under autocast attention reads keys and values in 16 bits, while rotary embeddings, and layers under adapters, hand them
over in float32. They are kept as they are read: in half the memory, and converted once rather than for every token.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from kto_lab.models.products import product_format

if TYPE_CHECKING:
    from peft import PeftModel

# Tokens of room. A cache is copied once in so many, and each time an answer leaves, room and all.
ROOM = 16


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, tokens, width) views of tensors that are longer."""

    def __init__(self) -> None:
        """Empty; the first call of `update` settles everything."""
        super().__init__()
        self.rooms: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, (rows, heads, new tokens, width), and return all there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self.rooms or after > self.rooms[0].shape[-2]:
            states = ((self.keys, key_states), (self.values, value_states))
            self.rooms = [_with_room(old, new, before) for old, new in states]
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[..., before:after, :] = new
        return self._show(after)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row so often."""
        if self.rooms:
            room = self.rooms[0]
            self.batch_select_indices(torch.arange(len(room), device=room.device).repeat_interleave(repeats))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Have each row be what this one was."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        if self.rooms:
            self.rooms = [room[indices] for room in self.rooms]
            self._show(self.get_seq_length())

    def _show(self, tokens: int) -> tuple[Tensor, Tensor]:
        keys, values = (room[..., :tokens, :] for room in self.rooms)
        self.keys, self.values = keys, values
        return keys, values


class CacheAsRead(DynamicCache):
    """A cache that keeps keys and values in the format that attention reads them in.

    Attributes:
        number_format: of what is kept; None for that of what is handed over.
    """

    def __init__(self, config: PretrainedConfig, number_format: torch.dtype | None) -> None:
        """Empty; layers other than plain attention (sliding windows, states) are transformers' own."""
        super().__init__(config=config)
        self.number_format = number_format
        self.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append a layer's keys and values, (rows, heads, new tokens, width), and return all there are."""
        if self.number_format is not None:
            key_states, value_states = key_states.to(self.number_format), value_states.to(self.number_format)
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return keys, values


def make_cache(model: "PreTrainedModel | PeftModel") -> CacheAsRead:
    """An empty cache for a model, in the number format of the moment."""
    return CacheAsRead(model.config, product_format(model.device))


def next_token_logits(
    model: "PreTrainedModel | PeftModel", input_ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
) -> Tensor:
    """(rows, vocabulary) float32 logits of the token that follows the last one; the cache grows by what is fed.

    Args:
        model: a causal language model, in eval mode.
        input_ids: (rows, new tokens) token ids, padded on the left.
        mask: (rows, all tokens) 1 where a token is, those in the cache included.
        positions: (rows, new tokens).
        cache: keys and values of what was fed before.
    """
    out = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = out.logits
    return logits[:, -1].float()


def _with_room(old: Tensor | None, new: Tensor, before: int) -> Tensor:
    """A tensor for the `before` tokens there are, those that come now, and some room; it starts with the old ones."""
    room = new.new_empty((*new.shape[:-2], before + new.shape[-2] + ROOM, new.shape[-1]))
    if before and old is not None:
        room[..., :before, :] = old
    return room
