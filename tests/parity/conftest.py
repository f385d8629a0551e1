"""The two models that both implementations run, and TRL kept quiet and apart from the other tests."""

import os

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.models.tiny import random_llama
from kto_lab.models.tokens import Encoder
from tests.parity.side_by_side import Bench

NOISE = 0.15
SEEDS = (0, 1)


@pytest.fixture(scope="session")
def models(tokenizer: PreTrainedTokenizerFast) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Policy and reference: one model with noise on every weight, drawn twice; log-ratios are some nats either way."""

    def noisy(seed: int) -> LlamaForCausalLM:
        model = random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=NOISE)
        return model

    return noisy(SEEDS[0]), noisy(SEEDS[1])


@pytest.fixture
def bench(
    models: tuple[LlamaForCausalLM, LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    encoder: Encoder,
    tmp_path: Path,
) -> Iterator[Bench]:
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    yield Bench(*models, tokenizer, encoder, tmp_path)
    if not hidden:
        datasets.enable_progress_bars()
    # A trainer on the CPU fixes accelerate's device for the whole process.
    AcceleratorState._reset_state(reset_partial_state=True)
