"""Tiny policies that say by heart what a test needs to hear."""

from collections.abc import Sequence

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.models.tiny import random_llama


def taught(tokenizer: PreTrainedTokenizerFast, said: Sequence[tuple[Sequence[int], Sequence[int]]]) -> LlamaForCausalLM:
    """A policy that greedily continues prompts as it was taught.

    Args:
        tokenizer: its tokenizer.
        said: pairs of a prompt's and a continuation's ids.
    """
    model = random_llama(vocabulary=len(tokenizer), hidden=64, layers=2, intermediate=128)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    width = max(len(prompt) + len(answer) for prompt, answer in said)
    ids, labels = torch.zeros(len(said), width, dtype=torch.long), torch.full((len(said), width), -100)
    for row, (prompt, answer) in enumerate(said):
        whole = torch.tensor([*prompt, *answer])
        ids[row, : len(whole)] = whole
        labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    for _ in range(400):
        loss = model(input_ids=ids, labels=labels).loss
        if loss < 0.003:
            return model.eval()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"still at {loss:.3f}")
