"""Shared fixtures: no network, a tiny random policy, and a small table."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.models.tokens import Encoder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    return Encoder(tokenizer)


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)
