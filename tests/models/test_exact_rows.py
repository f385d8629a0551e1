"""The trial of layouts refuses what is wrong in bf16, too, where log-probabilities alone could not tell."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, LlamaForCausalLM

from kto_lab.models import attention, exact_rows
from kto_lab.models import segments as module_of_segments
from kto_lab.models.attention import NAMES, Kernel, at_once, by_segment, set_packing
from kto_lab.models.exact_rows import ExactRows, find_exact_rows
from kto_lab.models.kernel_trial import try_kernels
from kto_lab.models.layout import packed
from kto_lab.models.logps import completion_logps
from kto_lab.models.number_format import as_read
from kto_lab.models.segments import Segment, Segments, Span
from kto_lab.models.sequences import Tokens
from kto_lab.models.tiny import random_llama
from tests.models.families import of_family
from tests.pretend.flash import varlen

UNITS = [[Tokens((5, 6, 7), (8, 9, 10))], [Tokens((5, 6, 7), (11, 12))], [Tokens((12,), (13, 14, 15, 16, 17))]]


def in_one_segment(segments: Segments) -> Segments:
    """The row as one sequence, whose tokens see all before them."""
    return Segments([Segment(Span(0, segments.parts[-1].own.end))], segments.keep, segments.seen, segments.seen_width)


def not_causal(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True).transpose(1, 2), None


WRONG: dict[str, Callable[..., Any]] = {
    "not causal": lambda m, q, k, v, mask, **how: not_causal(q, k, v),
    "a token behind": lambda m, q, k, v, mask, **how: by_segment(m, q, k.roll(1, 2), v.roll(1, 2), mask, **how),
    "scaled by 1.1": lambda m, q, k, v, mask, **how: by_segment(m, 1.1 * q, k, v, mask, **how),
    "leaking": lambda m, q, k, v, mask, segments, **how: by_segment(
        m, q, k, v, mask, segments=in_one_segment(segments), **how
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_attention_is_refused_in_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_family("llama")
    monkeypatch.setitem(AttentionInterface._global_mapping, NAMES["sdpa"], WRONG[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert find_exact_rows(model, longest=64) == ExactRows(packed=False, shared=True)


def test_a_base_in_16_bits_is_tried_in_float32_and_stays_as_it_is(model: LlamaForCausalLM) -> None:
    short = model.to(torch.bfloat16)
    as_read(short, number_format="bf16-mixed", trained=False)
    before = {name: (weight.dtype, weight.data_ptr()) for name, weight in short.named_parameters()}
    seen: set[torch.dtype] = set()
    with exact_rows._float32(short):
        hooks = [
            layer.register_forward_pre_hook(lambda layer, _: seen.update({p.dtype for p in layer.parameters()}))
            for layer in short.model.layers
        ]
        completion_logps(short, UNITS, pad_id=2)
        for hook in hooks:
            hook.remove()
    assert seen == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert find_exact_rows(short, longest=64) == ExactRows(packed=True, shared=True)
    assert before == {name: (weight.dtype, weight.data_ptr()) for name, weight in short.named_parameters()}
    assert torch.bfloat16 in {dtype for dtype, _ in before.values()}


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_a_kernel_is_used_once_it_was_tried_and_found_right(
    right: bool, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(4, 2, 8, 8, 8**-0.5, None, torch.bfloat16, torch.device("cpu"))
    flash = partial(varlen, ahead=0 if right else 1)
    calls: list[str] = []

    def counted(*arguments: Any, **how: Any) -> Tensor:
        calls.append("at once")
        return at_once(*arguments, **how, varlen=flash)

    monkeypatch.setattr(attention, "_kernel", lambda *_: kernel if torch.is_autocast_enabled("cpu") else None)
    monkeypatch.setattr(attention, "at_once", counted)
    monkeypatch.setattr(exact_rows, "try_kernels", partial(try_kernels, flash))
    attention.tried.pop(kernel, None)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rows = find_exact_rows(model, longest=64)
            assert rows.packed and not calls, "it is tried by itself"
            assert len(rows.faults) == (not right)
            assert all(fault.startswith("attention in one call is not used: its ") for fault in rows.faults)
            set_packing(model, True)
            completion_logps(model, UNITS, pad_id=2)
        assert bool(calls) == right
    finally:
        attention.tried.pop(kernel, None)


def test_tensors_of_a_layout_are_put_in_place_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {}
    for layers in (1, 4):
        model = random_llama(vocabulary=99, hidden=32, layers=layers, intermediate=32)
        set_packing(model, True)
        placed: list[Tensor] = []
        monkeypatch.setattr(module_of_segments, "placed", lambda t, device, placed=placed: placed.append(t) or t)
        completion_logps(model, UNITS, pad_id=2, share_prompts=True).sum().backward()
        counts[layers] = len(placed)
    assert counts[1] == counts[4] > 0
    segments = Segments(packed(UNITS, share_prompts=True).segments)
    assert segments.groups() is segments.groups(4096), "a window that nothing outgrows is none"
    assert segments.key_places is segments.key_places and segments.starts is segments.starts


def test_rows_that_give_no_numbers_in_the_run_s_format_are_not_packed(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(*arguments: Any, **how: Any) -> tuple[Tensor, Tensor | None]:
        found, weights = by_segment(*arguments, **how)
        return found * (float("inf") if torch.is_autocast_enabled("cpu") else 1), weights

    monkeypatch.setitem(AttentionInterface._global_mapping, NAMES["sdpa"], overflowing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = find_exact_rows(model, longest=64)
    assert not rows.packed and rows.faults == ("packed rows give no numbers in this number format",)


def test_what_fails_in_any_layout_is_not_taken_for_a_refusal(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **how: Any) -> None:
        raise NotImplementedError("no such operator here")

    monkeypatch.setattr(model.model, "forward", broken)
    with pytest.raises(NotImplementedError, match="no such operator here"):
        find_exact_rows(model, longest=64)
