"""torch.compile for the policy's blocks: each is compiled by itself, for any shape, and one graph serves all of them.

Compiled block by block a policy takes as long to compile as one block does, and a graph break inside a block (an
attention function that loops over sequences) costs a few calls, not the graph. The names of the weights stay as they
were. Blocks are compiled for the training alone: evaluation and generation run them as they are.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from kto_lab import narration
from kto_lab.models import attention
from kto_lab.models.adapted import is_adapted
from kto_lab.models.adapters import Policy
from kto_lab.models.logps import completion_logps, evaluating
from kto_lab.models.sequences import Tokens
from kto_lab.training.hardware import Hardware

# Graphs of one function: with and without gradient, one row and several, with a mask and without, and what lies between
# two graph breaks. torch's own limit of 8 is too few, and where it is reached torch goes on uncompiled without a word.
GRAPHS = 64


@dataclass(frozen=True)
class Compilation:
    """What became of `trainer.compile`.

    Attributes:
        used: whether the blocks were compiled.
        why_not: the reason in one line where they were asked for and were not; else None.
        seconds: of compiling, the trial steps included.
    """

    used: bool
    why_not: str | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for a record."""
        return asdict(self)


def blocks(policy: Policy) -> list[nn.Module]:
    """The layers of a policy that its architecture names as its blocks; none where it names none."""
    inner = policy.get_base_model() if is_adapted(policy) else policy
    names = set(getattr(inner, "_no_split_modules", None) or ())
    # A block in shards is of a class that was made of its own.
    return [module for module in policy.modules() if names & {kind.__name__ for kind in type(module).__mro__}]


@contextmanager
def compiled(policy: Policy, hardware: Hardware, *, share_prompts: bool, samples: bool) -> Iterator[Compilation]:
    """Compile the policy's blocks for a `with` block, where `trainer.compile` asks for it and it can be done.

    It is tried on made-up tokens first, forward and backward. Where that fails the policy runs as it is.

    Args:
        policy: on the device to train on; uncompiled again afterwards.
        hardware: where, in which number format, and whether at all.
        share_prompts: completions of one prompt share its row.
        samples: whether training generates from the policy, one token after another.

    Yields:
        What became of it.
    """
    if not hardware.compile:
        yield Compilation(used=False)
        return
    chosen = blocks(policy)
    with ExitStack() as stack:
        stack.callback(_uncompile, chosen)
        start = time.perf_counter()
        why_not = _why_not(chosen, samples)
        if why_not is None:
            # Both are read whenever a new shape is compiled. DDP's hooks cut between blocks; they need no help.
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=GRAPHS, optimize_ddp=False))
            stack.enter_context(_packed_attention_apart())
            for block in chosen:
                block.compile(dynamic=True)
            why_not = _failure(policy, hardware, share_prompts)
        if why_not is not None:
            _uncompile(chosen)
            narration.say(f"    torch.compile is not used: {why_not}")
            yield Compilation(used=False, why_not=why_not)
            return
        seconds = time.perf_counter() - start
        narration.say(f"    torch.compile: {len(chosen)} blocks, in {seconds:.0f} s")
        yield Compilation(used=True, seconds=seconds)


def _why_not(chosen: list[nn.Module], samples: bool) -> str | None:
    if samples:
        return "reference_point=sampled generates in every step, and compiled blocks would be made anew for each token"
    if not chosen:
        return "the architecture does not say what its blocks are (transformers' _no_split_modules)"
    return None


def _failure(policy: Policy, hardware: Hardware, share_prompts: bool) -> str | None:
    """The first line of what goes wrong in a trial step, if anything does."""
    size = policy.config.vocab_size
    # Lengths that are no other dimension: equal dimensions of the first shapes would be taken to be equal always.
    units = [[Tokens((1,) * (5 + 2 * n), tuple(k % size for k in range(6 + n)))] for n in range(5)]
    trainable = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    devices = [policy.device] if policy.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), hardware.autocast():
            with evaluating(policy), torch.no_grad():
                completion_logps(policy, units, pad_id=0, share_prompts=share_prompts)
            logps = completion_logps(policy, units, pad_id=0, share_prompts=share_prompts)
            torch.autograd.grad(logps.sum(), trainable, allow_unused=True)
    # A compiler can fail in any way: no C++ compiler, no headers, an operation it does not know, a full disk.
    except Exception as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
    return None


@contextmanager
def _packed_attention_apart() -> Iterator[None]:
    """Leave attention over packed rows uncompiled: each way to cut a row into sequences would be a graph of its own."""
    for name, function in attention.PACKING.items():
        AttentionInterface.register(name, torch.compiler.disable(function))
    try:
        yield
    finally:
        for name, function in attention.PACKING.items():
            AttentionInterface.register(name, function)


def _uncompile(chosen: list[nn.Module]) -> None:
    for block in chosen:
        # What `nn.Module.compile` sets; torch has no way back from it.
        block._compiled_call_impl = None
