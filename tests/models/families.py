"""Tiny models of many families, with random weights: what makes a family special bites within a few tokens."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo3Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCABULARY = 280
NO_ENDS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 2}
SIZES: dict[str, Any] = NO_ENDS | {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
WINDOW: dict[str, Any] = {"sliding_window": 4}
IN_TURN: dict[str, Any] = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
OLDER: dict[str, Any] = NO_ENDS | {"vocab_size": VOCABULARY}

FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "mistral": MistralConfig(**SIZES, **WINDOW),
    "gemma2": Gemma2Config(
        **SIZES, **WINDOW, head_dim=8, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, query_pre_attn_scalar=8
    ),
    "gemma3": Gemma3TextConfig(**SIZES, **IN_TURN, head_dim=8, query_pre_attn_scalar=8),
    "phi3": Phi3Config(**SIZES, **WINDOW),
    "olmo3": Olmo3Config(**SIZES, **IN_TURN),
    "gpt2": GPT2Config(**OLDER, n_embd=32, n_layer=2, n_head=4),
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
    "cohere2": Cohere2Config(**SIZES, **IN_TURN, logit_scale=0.25),
    "granite": GraniteConfig(
        **SIZES, logits_scaling=4.0, attention_multiplier=0.2, residual_multiplier=0.5, embedding_multiplier=3.0
    ),
    "qwen3-moe": Qwen3MoeConfig(**SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "gpt-oss": GptOssConfig(**SIZES, **IN_TURN, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    "bloom": BloomConfig(**OLDER, hidden_size=32, n_layer=2, n_head=4),
    "falcon": FalconConfig(
        **OLDER,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        new_decoder_architecture=True,
        num_kv_heads=2,
    ),
    "lfm2": Lfm2Config(**SIZES, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
}
# Those whose tokens meet elsewhere than in attention, or whose attention is not transformers' interface.
PADDED = {"bloom", "falcon", "lfm2"}


def of_family(name: str) -> PreTrainedModel:
    """A model in eval mode, with weights large enough that every part of it matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(FAMILIES[name])
        with torch.no_grad():
            for parameter in model.parameters():
                # Norms' weights are around 1 or, in Gemma, 0; biases and sinks are around 0.
                own = 1.0 if parameter.ndim == 1 and (parameter == 1).all() else 0.0
                parameter.normal_(own, 0.15)
    assert isinstance(model, PreTrainedModel)
    return model.eval()
