"""The floor of a step: forward and backward of the policy alone, on the real tokens, head on completion positions only.

No padding, no reference, no mismatched pairs, no optimiser. Written with plain transformers, apart from the package
that it is a measure of. Two ways are tried: one sequence after the other, and all of a step in one packed row under a
block-diagonal mask; in bf16 each of them under autocast, and with weights in bf16. The fastest of the warm-up is the
floor.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from benchmarks.gate import Gate
from benchmarks.jobs import LORA, Example, Job

Way = Callable[[list[Example]], None]


def main(job: Job) -> None:
    """Take the steps of a job."""
    gate = Gate()
    torch.set_num_threads(job.threads)
    steps = job.read_steps()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ways = make_ways(job, device)
    best: dict[str, float] = {}
    chosen = next(iter(ways))
    gate.ready(device=device.type)
    for number, step in enumerate(steps):
        examples = [example for unit in step for example in unit]
        if number < job.warmup:
            for name, way in ways.items():
                seconds = timed(way, examples, device)
                # The first step of a way pays for what is done once.
                best[name] = min(best.get(name, seconds), seconds)
            chosen = min(best, key=best.__getitem__)
        else:
            # What lost is given back, so that the peak of memory is the floor's.
            ways = {chosen: ways[chosen]}
            ways[chosen](examples)
        real = tokens_of(examples)
        gate.done(way=chosen, ways=best, tokens=real, positions=real - len(examples), padding=0)


def make_ways(job: Job, device: torch.device) -> dict[str, Way]:
    """Name to a function that takes the gradient of a step."""
    precisions: dict[str, tuple[torch.dtype, bool]] = {"float32": (torch.float32, False)}
    if job.precision == "bf16":
        precisions = {"autocast": (torch.float32, True), "bf16 weights": (torch.bfloat16, False)}
    ways: dict[str, Way] = {}
    for name, (weights, autocast) in precisions.items():
        model = load(job, weights, device)
        for layout, packed in (("one by one", False), ("packed", True)):
            ways[f"{layout}, {name}"] = way(model, device, packed=packed, autocast=autocast)
    return ways


def load(job: Job, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The policy; with LoRA the base is frozen."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        job.model, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
    )
    if job.adapter == "lora":
        model = get_peft_model(model, LoraConfig(**LORA))
    whole: nn.Module = model.to(device).train()
    return whole


def way(model: nn.Module, device: torch.device, *, packed: bool, autocast: bool) -> Way:
    """A function that leaves the gradient of a step's summed log-probabilities in a model."""

    def numbers() -> AbstractContextManager[object]:
        return torch.autocast(device.type, dtype=torch.bfloat16) if autocast else nullcontext()

    def gradient(examples: list[Example]) -> None:
        model.zero_grad(set_to_none=True)
        for group in [examples] if packed else [[example] for example in examples]:
            with numbers():
                loss = negative_logp(model, group, device)
            loss.backward()

    return gradient


def negative_logp(model: Any, examples: list[Example], device: torch.device) -> Tensor:
    """Minus the summed log-probability of the completions of some examples, which make one row."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    rows = [[*example["prompt_ids"], *example["completion_ids"][:-1]] for example in examples]
    lengths = [len(row) for row in rows]
    total = sum(lengths)
    ids = torch.tensor([token for row in rows for token in row], device=device)[None]
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])[None]
    mask = None
    if len(rows) > 1:
        owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths)).to(device)
        causal = torch.ones(total, total, dtype=torch.bool, device=device).tril()
        mask = ((owner[:, None] == owner[None]) & causal)[None, None]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    counts = [len(example["completion_ids"]) for example in examples]
    predict = torch.cat([torch.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]).to(device)
    targets = torch.tensor([token for example in examples for token in example["completion_ids"]], device=device)
    hidden = inner.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state
    logits = inner.lm_head(hidden[0, predict])
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def timed(way: Way, examples: list[Example], device: torch.device) -> float:
    """Seconds of one step."""
    begun = time.perf_counter()
    way(examples)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def tokens_of(examples: list[Example]) -> int:
    """Real tokens of a step, prompts once per example."""
    return sum(len(example["prompt_ids"]) + len(example["completion_ids"]) for example in examples)
