"""Models of other kinds than kto-lab trains are refused with a sentence when they are loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
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
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from kto_lab.errors import LabError
from kto_lab.models.adapters import Lora
from kto_lab.models.load import hf

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


def test_adapters_that_mamba_can_have_are_trained(mamba: MambaForCausalLM) -> None:
    policy = Lora(2, 4, 0.0, ["in_proj", "x_proj"], merge=False).attach(mamba)
    policy(input_ids=torch.ones((1, 4), dtype=torch.long)).logits.sum().backward()
    assert all(value.grad is not None for value in policy.parameters() if value.requires_grad)
