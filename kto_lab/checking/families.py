"""Models of the architectures that are checked, with random weights: what makes each special bites on short texts."""

from collections.abc import Callable
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from kto_lab.checking.policies import VOCABULARY, enlarge
from kto_lab.checking.settings import Size

# Heads, of which pairs share keys.
HEADS = 4
ENDS: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 2}


def _sizes(size: Size) -> dict[str, Any]:
    return ENDS | {
        "hidden_size": size.hidden,
        "intermediate_size": size.hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": 2048,
    }


def _windows(size: Size) -> dict[str, Any]:
    """Sequences are longer than it."""
    return {"sliding_window": 4 * size.stretch}


CONFIGS: dict[str, Callable[[Size], PretrainedConfig]] = {
    "Llama": lambda size: LlamaConfig(**_sizes(size)),
    "Qwen3": lambda size: Qwen3Config(**_sizes(size), head_dim=size.hidden // HEADS),
    "Mistral": lambda size: MistralConfig(**_sizes(size), **_windows(size)),
    "Gemma 3": lambda size: Gemma3TextConfig(
        **_sizes(size),
        **_windows(size),
        head_dim=size.hidden // HEADS,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=size.hidden // HEADS,
    ),
    "Phi-3": lambda size: Phi3Config(**_sizes(size), **_windows(size)),
    "GPT-2": lambda size: GPT2Config(**ENDS, n_embd=size.hidden, n_layer=2, n_head=HEADS, n_positions=2048),
    "Mixtral": lambda size: MixtralConfig(**_sizes(size), num_local_experts=4, num_experts_per_tok=2),
}


def model(name: str, size: Size) -> PreTrainedModel:
    """A model of an architecture in eval mode on the CPU, with weights large enough that every part of it matters."""
    made = AutoModelForCausalLM.from_config(CONFIGS[name](size), attn_implementation="sdpa", trust_remote_code=False)
    assert isinstance(made, PreTrainedModel)
    enlarge(made)
    return made.eval()
