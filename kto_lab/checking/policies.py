"""A small policy on the device that `trainer=auto` takes; its log-probabilities by the lab's way and the plain one."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from kto_lab.checking.settings import Size
from kto_lab.gpus import Machine
from kto_lab.models.attention import set_packing
from kto_lab.models.logps import completion_token_logps
from kto_lab.models.sequences import Tokens
from kto_lab.models.tiny import random_llama
from kto_lab.training.devices import ask, choose

VOCABULARY = 97


def device() -> torch.device:
    """The device that `trainer=auto` takes."""
    return torch.device(choose("auto", Machine.here(), ask()).device)


def llama(size: Size, *, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    """A Llama in float32 on the CPU, the same each time."""
    return random_llama(
        vocabulary=vocabulary, hidden=size.hidden, layers=size.layers, intermediate=2 * size.hidden
    ).eval()


@torch.no_grad()
def enlarge(model: PreTrainedModel) -> None:
    """Draw the matrices anew, in place, so large that every part of the model matters to what it predicts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5)


def policy(size: Size) -> LlamaForCausalLM:
    """The same on the device."""
    model = llama(size)
    torch.nn.Module.to(model, device())
    return model


def sequences(size: Size) -> list[Tokens]:
    """Prompts and completions of unlike lengths, so that padding and packing have something to do.

    Each prompt has two completions.
    """
    found = []
    for number in range(4):
        prompt = _drawn(number, size.stretch * (4 + 3 * number))
        found += [
            Tokens(prompt, _drawn(10 * number + answer + 1, size.stretch * (2 + 5 * answer + number)))
            for answer in range(2)
        ]
    return found


def _drawn(start: int, tokens: int) -> tuple[int, ...]:
    draw = torch.Generator().manual_seed(start)
    return tuple(torch.randint(VOCABULARY, (tokens,), generator=draw).tolist())


def logps(
    model: PreTrainedModel, tokens: Sequence[Tokens], *, packed: bool = False, share_prompts: bool = False
) -> Tensor:
    """(N,) log-probabilities of the completions, as a run computes them.

    Args:
        model: the policy.
        tokens: N sequences, of which those of one prompt follow one another.
        packed: in one row rather than in rows with padding.
        share_prompts: each prompt once.
    """
    set_packing(model, packed)
    units = [[sequence] for sequence in tokens]
    return completion_token_logps(model, units, pad_id=0, share_prompts=share_prompts).sums


def plain_logps(model: PreTrainedModel, tokens: Sequence[Tokens]) -> Tensor:
    """(N,) the same, one by one from whole logits, in the number format of the model's weights."""
    set_packing(model, False)
    sums = []
    for sequence in tokens:
        ids = torch.tensor([sequence.prompt + sequence.completion], device=model.device)
        rows = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        first = len(sequence.prompt)
        sums.append(rows[first - 1 : -1].gather(1, ids[0, first:, None]).sum())
    return torch.stack(sums)
