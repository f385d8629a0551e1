"""The cache with room against transformers' own: every key and value, whatever happens to rows and length."""

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM, MistralConfig

from kto_lab.models import generate as generating
from kto_lab.models.generate import sample_tokens
from kto_lab.models.kv_cache import ROOM, CacheAsRead, RoomyLayer, make_cache


def plain_cache(model: LlamaForCausalLM) -> DynamicCache:
    return DynamicCache(config=model.config)


def test_rows_and_tokens_are_those_of_the_plain_cache(model: LlamaForCausalLM) -> None:
    mine, plain = make_cache(model), plain_cache(model)
    for cache in (mine, plain):
        torch.manual_seed(0)
        for new in (5, 1, ROOM, 1):
            rows = 3 if cache.get_seq_length() == 0 else len(cache.layers[0].keys)
            for layer in range(2):
                cache.update(torch.randn(rows, 2, new, 4), torch.randn(rows, 2, new, 6), layer)
            cache.batch_repeat_interleave(2)
            cache.batch_select_indices(torch.tensor([0, 3, 5]))
            cache.reorder_cache(torch.tensor([2, 0, 0]))
    assert mine.get_seq_length() == plain.get_seq_length() == 7 + ROOM
    for one, other in zip(mine.layers, plain.layers, strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


def test_a_token_is_written_in_place(model: LlamaForCausalLM) -> None:
    cache = make_cache(model)
    places = set()
    for _ in range(ROOM):
        keys, _ = cache.update(torch.randn(2, 2, 1, 4), torch.randn(2, 2, 1, 4), 0)
        places.add(keys.data_ptr())
    assert len(places) == 1


def test_a_cache_that_holds_nothing_has_no_rows_to_choose(model: LlamaForCausalLM) -> None:
    cache = make_cache(model)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0]))
    assert cache.get_seq_length() == 0


def test_layers_that_forget_stay_as_they_are() -> None:
    cache = CacheAsRead(MistralConfig(num_hidden_layers=2, sliding_window=8), None)
    assert cache.layers and not any(isinstance(layer, RoomyLayer) for layer in cache.layers)


@pytest.mark.parametrize("window", [None, 8], ids=["whole", "sliding"])
def test_keys_and_values_are_kept_as_attention_reads_them(window: int | None) -> None:
    config = MistralConfig(num_hidden_layers=1, sliding_window=window)
    for number_format in (None, torch.bfloat16):
        cache = CacheAsRead(config, number_format)
        states = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
        for kept, state in zip(cache.update(*states, 0), states, strict=True):
            assert torch.equal(kept, state.to(number_format or torch.float32))
        assert cache.layers[0].keys.dtype == (number_format or torch.float32)


@pytest.mark.parametrize("number_format", [torch.float32, torch.bfloat16])
def test_answers_are_those_with_the_plain_cache(
    model: LlamaForCausalLM, number_format: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    prompts = [tuple(range(3, 3 + length)) for length in (4, 9, 6, 5)]

    def answers(temperature: float) -> list[list[int]]:
        torch.manual_seed(1)
        narrow = torch.autocast("cpu", torch.bfloat16, enabled=number_format == torch.bfloat16)
        with narrow:
            return sample_tokens(
                model.eval(),
                prompts,
                pad_id=0,
                ended=lambda tokens: tokens[-1] < 90,
                max_new_tokens=2 * ROOM,
                chances=torch.rand(12, 2 * ROOM, dtype=torch.float64) if temperature else None,
                samples=3,
            )

    mine = [answers(0.0), answers(1.0)]
    monkeypatch.setattr(generating, "make_cache", plain_cache)
    assert mine == [answers(0.0), answers(1.0)]
    assert len({len(answer) for answer in mine[1]}) > 3
