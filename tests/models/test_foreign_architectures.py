"""Architectures beside the tiny policy's: numbers are transformers' own, or there is a sentence when one is loaded."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    MambaForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from kto_lab.errors import LabError
from kto_lab.models.adapters import Lora
from kto_lab.models.attention import set_packing
from kto_lab.models.exact_rows import ExactRows, find_exact_rows
from kto_lab.models.load import hf
from kto_lab.models.logps import check_head, completion_logps
from kto_lab.models.sequences import Tokens
from kto_lab.runs.command import train
from kto_lab.runs.evaluate import evaluate
from kto_lab.runs.record import read_record
from tests import small_runs
from tests.models.families import FAMILIES, PADDED, of_family

TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": 0,
}
EYES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 28,
    "patch_size": 14,
}


def gemma() -> PreTrainedModel:
    config = Gemma3Config(text_config=Gemma3TextConfig(**TEXT), vision_config=SiglipVisionConfig(**EYES))
    return Gemma3ForConditionalGeneration(config)


def llava() -> PreTrainedModel:
    config = LlavaConfig(text_config=LlamaConfig(**TEXT), vision_config=CLIPVisionConfig(**EYES))
    return LlavaForConditionalGeneration(config)


def llama4() -> PreTrainedModel:
    return Llama4ForCausalLM(Llama4TextConfig(**TEXT, intermediate_size_mlp=16, num_local_experts=2, moe_layers=[0]))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (gemma, "Gemma3ForConditionalGeneration is multimodal, and kto-lab trains models of text alone"),
        (llava, "is Llava that transformers does not know as the kind of model that is wanted here"),
        (llama4, "Llama4ForCausalLM has no part 'language_model'"),
    ],
    ids=["gemma", "llava", "llama 4"],
)
def test_a_model_of_another_kind_is_refused(
    make: Any, said: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    make().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LabError, match=said):
        hf(str(tmp_path), dtype="float32", attention="sdpa")


def test_an_architecture_without_sdpa_is_loaded_with_eager_attention(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    Gemma2ForCausalLM(Gemma2Config(**TEXT)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert hf(str(tmp_path), dtype="float32", attention="sdpa").model.config._attn_implementation == "eager"


@pytest.fixture
def mamba() -> MambaForCausalLM:
    return MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=2)).eval()


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("all-linear", r"all-linear, which peft refuses: .*out_proj.*MambaForCausalLM has dt_proj, in_proj"),
        (["conv1d"], r"\[conv1d\], which peft refuses"),
        (["norm"], r"\[norm\], which peft refuses"),
        (["in_proj", "dt_proj"], r"computes without calling dt_proj: an adapter there would change nothing"),
    ],
)
def test_adapters_that_mamba_cannot_have_are_refused(targets: Any, said: str, mamba: MambaForCausalLM) -> None:
    with pytest.raises(LabError, match=said):
        Lora(2, 4, 0.0, targets, merge=False).attach(mamba)


def test_an_adapter_on_a_router_that_is_a_linear_layer_is_refused() -> None:
    config = PhimoeConfig(**TEXT, num_local_experts=2, num_experts_per_tok=1)
    with pytest.raises(LabError, match="takes in router: of PhimoeForCausalLM that is a layer that gives more than"):
        Lora(2, 4, 0.0, "all-linear", merge=False).attach(PhimoeForCausalLM(config).eval())


def test_adapters_that_mamba_can_have_are_trained(mamba: MambaForCausalLM) -> None:
    policy = Lora(2, 4, 0.0, ["in_proj", "x_proj"], merge=False).attach(mamba)
    policy(input_ids=torch.ones((1, 4), dtype=torch.long)).logits.sum().backward()
    assert all(value.grad is not None for value in policy.parameters() if value.requires_grad)


SEQUENCES = [
    Tokens((5, 6, 7, 3, 12, 9, 11), (8, 9, 10)),
    Tokens((12,), (13, 14, 15, 16, 17)),
    Tokens((5, 6, 7, 3, 12, 9, 11), (19,)),
    Tokens((30, 31, 32, 33, 34, 35), (36, 8)),
    Tokens((5, 6, 7, 3, 12, 9, 11), (40, 41, 42, 43)),
]
UNITS = [[sequence] for sequence in SEQUENCES]


def by_transformers(model: PreTrainedModel) -> Tensor:
    """Log-probabilities of the completions in rows with padding, from the logits of the whole model."""
    whole = [sequence.prompt + sequence.completion for sequence in SEQUENCES]
    width = max(map(len, whole))
    ids = torch.tensor([[*tokens, *[2] * (width - len(tokens))] for tokens in whole])
    mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in whole])
    logps = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
    logps = logps[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return torch.stack([row[len(s.prompt) - 1 : len(s) - 1].sum() for row, s in zip(logps, SEQUENCES, strict=True)])


def gradients(model: PreTrainedModel, logps: Tensor) -> Iterator[Tensor]:
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    parameters = list(model.parameters())
    found = torch.autograd.grad((logps * weights).sum(), parameters, allow_unused=True)
    return (torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))


@cache
def laid_out(family: str) -> tuple[PreTrainedModel, ExactRows]:
    """A model and how its rows can be laid out, tried in bf16, where no tolerance tells a leak from rounding."""
    model = of_family(family)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = find_exact_rows(model, longest=64)
    set_packing(model, rows.packed)
    return model, rows


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_packed_and_prompts_shared_where_attention_alone_mixes_tokens(family: str) -> None:
    packed, shared = family not in PADDED, family not in {"bloom", "lfm2"}
    assert laid_out(family)[1] == ExactRows(packed=packed, shared=shared)


@pytest.mark.parametrize("family", FAMILIES)
def test_logps_and_gradients_are_those_of_transformers(family: str) -> None:
    model, rows = laid_out(family)
    check_head(model)
    set_packing(model, False)
    wanted = by_transformers(model)
    expected = list(gradients(model, wanted))
    set_packing(model, rows.packed)
    for share_prompts in {False, rows.shared}:
        found = completion_logps(model, UNITS, pad_id=2, share_prompts=share_prompts)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
        for ours, theirs in zip(gradients(model, found), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_does_not_move_the_log_prob_of_another(family: str) -> None:
    model, rows = laid_out(family)
    others = [Tokens(s.prompt[::-1], tuple(token + 50 for token in s.completion)) for s in SEQUENCES]
    before = completion_logps(model, UNITS, pad_id=2, share_prompts=rows.shared)
    for number in range(len(SEQUENCES)):
        # The prompt that others share stays theirs.
        changed = [[s if n == number else o] for n, (s, o) in enumerate(zip(SEQUENCES, others, strict=True))]
        after = completion_logps(model, changed, pad_id=2, share_prompts=rows.shared)
        torch.testing.assert_close(after[number], before[number], rtol=1e-5, atol=2e-5)


QUICK = [
    "evaluation=debug",
    "evaluation.prompts=2",
    "evaluation.kl_prompts=1",
    "evaluation.max_new_tokens=2",
    "optimization.max_steps=2",
    "optimization.learning_rate=1e-3",
]
WAYS = {
    "kto": ["loss=kto", "trainer.precision=32-true"],
    "dpo, lora, bf16": ["loss=dpo", "adapter=lora", "adapter.dropout=0", "trainer.precision=bf16-mixed"],
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_saved_and_judged_again(
    family: str, way: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    of_family(family).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    words = small_runs.overrides(tmp_path, "model=hf", f"model.name={folder}", *WAYS[way], *QUICK)
    run_folder = train(small_runs.composed([word for word in words if word != "model.weights=random"]))
    first, *later = small_runs.metrics(run_folder)
    assert abs(float(first["reward_margin"])) < 0.01 and later, "the policy starts as its reference"
    judged = ["trainer=cpu", WAYS[way][-1], *QUICK[:4]]
    again = read_record(evaluate(small_runs.composed([f"run={run_folder}", *judged], name="evaluate")))
    assert again["metrics"] == read_record(run_folder)["metrics"]
