"""Checks of the numbers on this machine, by a tiny policy on the device that `trainer=auto` takes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from kto_lab.checking.row import Row, judged
from kto_lab.checking.settings import Limits
from kto_lab.gpus import Machine
from kto_lab.losses import Thumbs, kto
from kto_lab.losses.values import logistic
from kto_lab.models.attention import set_packing
from kto_lab.models.logps import completion_token_logps
from kto_lab.models.sequences import Tokens
from kto_lab.models.tiny import random_llama
from kto_lab.training.devices import ask, choose

VOCABULARY = 97
STEPS = 10
# Prompts and completions of unlike lengths, so that padding and packing have something to do.
SEQUENCES = tuple(
    Tokens(
        tuple((5 * number + 3 * place) % VOCABULARY for place in range(4 + 3 * number)),
        tuple((11 * number + 7 * place + 1) % VOCABULARY for place in range(2 + 5 * (number % 3))),
    )
    for number in range(6)
)
ADVICE = "Compare torch and its libraries with constraints.txt; results of this machine would not be those of others."
REPEAT = "Runs on this machine do not repeat exactly: try trainer.deterministic=true, and fewer threads."


def policy() -> LlamaForCausalLM:
    """A small Llama in float32, the same each time, on the device that `trainer=auto` takes."""
    model = _llama()
    torch.nn.Module.to(model, choose("auto", Machine.here(), ask()).device)
    return model


def _llama() -> LlamaForCausalLM:
    return random_llama(vocabulary=VOCABULARY, hidden=64, layers=3, intermediate=128).eval()


def logps(model: LlamaForCausalLM, *, packed: bool = False) -> Tensor:
    """(N,) log-probabilities of the completions, as a run computes them."""
    set_packing(model, packed)
    return completion_token_logps(model, [[sequence] for sequence in SEQUENCES], pad_id=0).sums


def plain_logps(model: LlamaForCausalLM, sequences: Sequence[Tokens] = SEQUENCES) -> Tensor:
    """(N,) the same, one by one from whole logits, in the number format of the model's weights."""
    sums = []
    for sequence in sequences:
        ids = torch.tensor([sequence.prompt + sequence.completion], device=model.device)
        rows = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        first = len(sequence.prompt)
        sums.append(rows[first - 1 : -1].gather(1, ids[0, first:, None]).sum())
    return torch.stack(sums)


def from_float64(limits: Limits) -> list[Row]:
    """Log-probabilities and gradients in float32 against those in float64 on the CPU."""
    model, exact = policy(), _llama().double()
    ours, theirs = logps(model), plain_logps(exact)
    ours.sum().backward()
    theirs.sum().backward()
    differences = [
        _difference(mine.grad, right.grad)
        for mine, right in zip(model.parameters(), exact.parameters(), strict=True)
        if mine.grad is not None and right.grad is not None
    ]
    return [
        _within("log-probs from float64", _difference(ours.detach(), theirs.detach()), limits.logps),
        _within("gradients from float64", torch.tensor(differences).max().item(), limits.gradients),
    ]


def packed_rows(limits: Limits) -> Row:
    """Log-probabilities of packed rows against those of padded ones."""
    model = policy()
    with torch.no_grad():
        return _within("packed rows from padded", _difference(logps(model, packed=True), logps(model)), limits.packed)


def repeats() -> Row:
    """Ten steps of KTO, twice: the same weights bit for bit."""
    first, second = _train(), _train()
    unlike = sum(not torch.equal(one, other) for one, other in zip(first, second, strict=True))
    said = f"{unlike} of {len(first)} weights differ" if unlike else "bit for bit the same"
    return judged(f"{STEPS} steps of KTO, twice", said, limit="bit for bit", holds=not unlike, mend=REPEAT)


def _train() -> list[Tensor]:
    model = policy()
    with torch.no_grad():
        reference = logps(model)
    desirable = torch.tensor([number % 2 == 0 for number in range(len(SEQUENCES))], device=reference.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        batch = Thumbs(logps(model, packed=True), reference, desirable, z0=torch.zeros((), device=reference.device))
        kto(batch, beta=0.1, value=logistic).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [weight.detach() for weight in model.parameters()]


def _difference(ours: Tensor, right: Tensor) -> float:
    """The largest difference, relative to the largest number; NaN where a number is not finite."""
    right = right.cpu().double()
    return ((ours.cpu().double() - right).abs().max() / right.abs().max()).item()


def _within(name: str, difference: float, limit: float) -> Row:
    return judged(name, f"{difference:.1e}", limit=f"{limit:.0e}", holds=difference <= limit, mend=ADVICE)
