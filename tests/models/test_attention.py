"""Packed rows: attention by segment equals attention of each sequence by itself, and asks for no padding."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AttentionInterface,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kto_lab.models import attention
from kto_lab.models import segments as module_of_segments
from kto_lab.models.attention import Scores, at_once, by_segment, in_groups, packs, set_packing
from kto_lab.models.exact_rows import ExactRows, find_exact_rows
from kto_lab.models.layout import packed
from kto_lab.models.logps import (
    KeptPrompts,
    completion_logps,
    completion_token_logps,
    continuation_logps,
)
from kto_lab.models.segments import Kept, Segment, Segments, Span
from kto_lab.models.sequences import Tokens
from tests.pretend.flash import varlen

SEQUENCES = [
    Tokens((5, 6, 7), (8, 9, 10)),
    Tokens((5, 6, 7), (11,)),
    Tokens((12,), (13, 14, 15, 16, 17)),
    Tokens((5, 6, 7), (8, 20, 21, 22)),
    Tokens((30, 31, 32, 33, 34, 35), (36, 0)),
]
UNITS = [[sequence] for sequence in SEQUENCES]
# A sequence alone, a prompt with its first completion, and two more completions of that prompt.
PARTS = [Segment(Span(0, 4)), Segment(Span(4, 9)), Segment(Span(9, 12), Span(4, 6)), Segment(Span(12, 13), Span(4, 6))]


@pytest.mark.parametrize("wasted", [0, 10, 10**6], ids=["apart", "some together", "together"])
@pytest.mark.parametrize("heads", [2, 4])
def test_each_segment_attends_to_itself_and_its_prompt(
    monkeypatch: pytest.MonkeyPatch, wasted: int, heads: int
) -> None:
    monkeypatch.setattr(module_of_segments, "WASTED", wasted)
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, heads, 13, 8, generator=draw)
    key, value = torch.randn(2, 1, 2, 13, 8, generator=draw).unbind()
    found, _ = by_segment(nn.Module(), query, key, value, None, scaling=0.3, segments=Segments(PARTS))
    for part in PARTS:
        own = list(range(*part.own))
        keys = [*range(*part.prompt), *own] if part.prompt else own
        mask = torch.ones(len(own), len(keys), dtype=torch.bool).tril(len(keys) - len(own))
        wanted = F.scaled_dot_product_attention(
            query[:, :, own], key[:, :, keys], value[:, :, keys], attn_mask=mask, scale=0.3, enable_gqa=heads != 2
        )
        torch.testing.assert_close(found[:, own], wanted.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_gradients_reach_a_prompt_from_all_of_its_completions() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 13, 8, generator=draw).requires_grad_() for _ in range(3))
    found, _ = by_segment(nn.Module(), query, key, value, None, segments=Segments(PARTS))
    places = [set(range(*part.own)) | set(range(*(part.prompt or (0, 0)))) for part in PARTS]
    segment_of = {place: number for number, part in enumerate(PARTS) for place in range(*part.own)}
    mask = torch.tensor([[k <= q and k in places[segment_of[q]] for k in range(13)] for q in range(13)])
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    weights = torch.randn(found.shape, generator=draw)
    ours = torch.autograd.grad((found * weights).sum(), [query, key, value])
    theirs = torch.autograd.grad((wanted * weights).sum(), [query, key, value])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_packed_row_has_no_padding() -> None:
    apart, shared = packed(UNITS, share_prompts=False), packed(UNITS, share_prompts=True)
    assert apart.input_ids.shape == (1, sum(len(sequence) - 1 for sequence in SEQUENCES)) == (1, apart.real)
    assert shared.real == apart.real - 2 * 3, "one prompt of three tokens is there once instead of three times"
    assert apart.counts == shared.counts == [3, 1, 5, 4, 2]


@pytest.mark.parametrize("share", [False, True], ids=["apart", "shared"])
def test_packed_rows_give_the_logps_and_gradients_of_padded_ones(model: LlamaForCausalLM, share: bool) -> None:
    assert find_exact_rows(model, longest=64) == ExactRows(packed=True, shared=True)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    found = {}
    for packing in (False, True):
        set_packing(model, packing)
        assert packs(model) == packing
        logps = completion_logps(model, UNITS, pad_id=2, share_prompts=share)
        found[packing] = logps, torch.autograd.grad((logps * weights).sum(), list(model.parameters()))
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(found[True][1], found[False][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [False, True], ids=["apart", "shared"])
def test_other_completions_go_on_from_kept_prompts(model: LlamaForCausalLM, share: bool) -> None:
    others = [(40, 41), (42,), (43, 44, 45, 46), (47, 48, 49), (50, 51)]
    set_packing(model, True)
    keep = KeptPrompts()
    completion_token_logps(model, UNITS, pad_id=2, share_prompts=share, keep=keep)
    found = continuation_logps(model, keep, others)
    whole = [[Tokens(s.prompt, other)] for s, other in zip(SEQUENCES, others, strict=True)]
    set_packing(model, False)
    torch.testing.assert_close(found, completion_logps(model, whole, pad_id=2).detach(), rtol=1e-5, atol=1e-4)
    assert not found.requires_grad
    # Completions of one token need no pass at all.
    short = continuation_logps(model, keep, [(other[0],) for other in others])
    assert short.shape == (5,) and short.isfinite().all()


def test_what_is_asked_for_beside_is_refused() -> None:
    tensors = (torch.zeros(1, 2, 4, 8),) * 3
    for odd in ({"position_bias": tensors[0]}, {"is_causal": False}):
        with pytest.raises(ValueError, match=next(iter(odd))):
            by_segment(nn.Module(), *tensors, None, segments=Segments(PARTS[:1]), **odd)
    with pytest.raises(ValueError, match="batch"):
        by_segment(nn.Module(), *(torch.zeros(2, 2, 4, 8),) * 3, None, segments=Segments(PARTS[:1]))


TINY: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}


def windowed(kind: str, window: int) -> PreTrainedModel:
    """A model whose layers, or the last of them alone, see so many tokens."""
    torch.manual_seed(0)
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**TINY, sliding_window=window)).eval()
    only_last: dict[str, Any] = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 1}
    return Qwen2ForCausalLM(Qwen2Config(**TINY, **only_last)).eval()


@pytest.mark.parametrize("window", [1, 3, 4, 5, 7, 4096])
@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_rows_are_packed_and_shared_within_a_window_and_beyond_it(kind: str, window: int) -> None:
    model = windowed(kind, window)
    assert find_exact_rows(model, longest=4096) == ExactRows(packed=True, shared=True)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    others = [sequence.completion for sequence in reversed(SEQUENCES)]
    swapped = [[Tokens(sequence.prompt, other)] for sequence, other in zip(SEQUENCES, others, strict=True)]
    set_packing(model, False)
    wanted, elsewhere = (completion_logps(model, units, pad_id=2) for units in (UNITS, swapped))
    gradients = torch.autograd.grad((wanted * weights).sum(), list(model.parameters()))
    set_packing(model, True)
    for share in (False, True):
        keep = KeptPrompts()
        found = completion_token_logps(model, UNITS, pad_id=2, share_prompts=share, keep=keep).sums
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
        ours = torch.autograd.grad((found * weights).sum(), list(model.parameters()))
        for one, other in zip(ours, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(continuation_logps(model, keep, others), elsewhere.detach(), rtol=1e-5, atol=1e-4)
    if window < 5:
        set_packing(unbounded := windowed(kind, 4096), True)
        assert not torch.allclose(completion_logps(unbounded, UNITS, pad_id=2), wanted, atol=1e-3), "nothing to honour"


@pytest.mark.parametrize(("longest", "shared"), [(12, True), (13, False)])
def test_masks_of_padded_rows_know_no_window_and_are_used_only_within_it(
    monkeypatch: pytest.MonkeyPatch, longest: int, shared: bool
) -> None:
    def refusing(*_: object, **more: object) -> None:
        raise ValueError("no packed rows")

    model = windowed("mistral", 12)
    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAMES["sdpa"], refusing)
    assert find_exact_rows(model, longest=longest) == ExactRows(packed=False, shared=shared)


def test_an_architecture_that_hides_its_window_is_run_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its masks have the window, and its attention is not told of it."""
    model = windowed("mistral", 12)
    whole = by_segment
    monkeypatch.setitem(
        AttentionInterface._global_mapping,
        attention.NAMES["sdpa"],
        lambda *arguments, sliding_window=None, **more: whole(*arguments, **more),
    )
    assert find_exact_rows(model, longest=12) == ExactRows(packed=True, shared=True)
    assert find_exact_rows(model, longest=13) == ExactRows(packed=False, shared=False)


def test_the_places_of_all_keys_are_those_of_the_segments() -> None:
    own = [*range(4), *range(4, 9), 4, 5, *range(9, 12), 4, 5, 12]
    assert Segments(PARTS).key_places.tolist() == own
    after = Segments([Segment(Span(0, 2), Span(4, 6))], seen=Kept(), seen_width=13)
    assert after.key_places.tolist() == [4, 5, 13, 14]


@pytest.mark.parametrize("window", [None, 2, 4, 4096])
@pytest.mark.parametrize("seen", [False, True], ids=["own prompts", "prompts seen before"])
def test_one_kernel_for_all_segments_gets_their_keys(seen: bool, window: int | None) -> None:
    """The kernel itself exists on CUDA alone; here it is emulated, and what it is handed is right."""
    draw = torch.Generator().manual_seed(0)
    module = nn.Module()
    query = torch.randn(1, 4, 13, 8, generator=draw)
    key, value, old_key, old_value = torch.randn(4, 1, 2, 13, 8, generator=draw).unbind()
    kept = Kept({module: (old_key, old_value)}) if seen else None
    segments = Segments(PARTS, seen=kept, seen_width=13 if seen else 0)
    scores = Scores(0.3, window)
    torch.testing.assert_close(
        at_once(module, query, key, value, segments, scores, torch.bfloat16, varlen).float(),
        in_groups(module, query, key, value, segments, scores),
        rtol=0.02,
        atol=0.02,
    )
