"""How the rows of a model can be laid out: tried on the model itself, before it is trusted with anything.

What is tried, and in which number format, goes by what an error would look like:

- the layout (packed or padded, prompts shared or not) in float32, where rounding is far below any error: attention
  that looks into a neighbour, a convolution or a state that runs on from one sequence into the next, a window or a sink
  that is not honoured;
- the kernel that packed rows take on a GPU by itself (`kernel_trial.py`), since it has no float32;
- that the model's own number format gives numbers at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kto_lab.memory import is_out_of_memory
from kto_lab.models.attention import packs, set_packing
from kto_lab.models.kernel_trial import forget_faults, try_kernels
from kto_lab.models.logps import KeptPrompts, completion_token_logps, continuation_logps, evaluating
from kto_lab.models.quantization import compute_in, quantised
from kto_lab.models.sequences import Tokens
from kto_lab.models.tf32 import without_tf32

if TYPE_CHECKING:
    from peft import PeftModel

# Keys of a configuration that limit how far back a token attends.
REACHES = ("sliding_window", "window_size", "attention_chunk_size")
# Of the largest log-probability: what float32 rounds away in another order of its sums.
ROUNDING = 1e-5


@dataclass(frozen=True)
class ExactRows:
    """How rows can be laid out for a model without changing a log-probability beyond rounding.

    Attributes:
        packed: one after another in one row.
        shared: completions of a prompt after the prompt.
        faults: what is wrong, as sentences, where packed rows or the kernel that a GPU has for them are not used.
    """

    packed: bool
    shared: bool
    faults: tuple[str, ...] = ()


@torch.no_grad()
def find_exact_rows(model: "PreTrainedModel | PeftModel", *, longest: int) -> ExactRows:
    """Try on the model itself how its rows can be laid out.

    An architecture that ignores or rejects what packed or shared rows ask of it fails here, and is then run the plain
    way: one sequence per row, with padding. A few tokens are enough, unless the model has a window (of sliding or
    chunked attention) that a sequence can outgrow: then those tried do.

    Args:
        model: as it will be run; called in the number format that it will be run in.
        longest: tokens of the longest sequence that it will be given.
    """
    reaches = [getattr(model.config.get_text_config(), name, None) for name in REACHES]
    outgrown = [reach for reach in reaches if isinstance(reach, int) and reach < longest]
    sequences = _sequences(model.config.vocab_size, prompt_tokens=7 + max(outgrown, default=0))
    was = packs(model)
    try:
        with _float32(model):
            rows = _find_layout(model, sequences)
        if not rows.packed:
            return rows
        set_packing(model, True)
        forget_faults()
        # Asks for the kernels, where there are such.
        found = _logps(model, sequences, share_prompts=rows.shared, rounding=float("inf"))
        if found is None or not found.isfinite().all():
            return ExactRows(packed=False, shared=False, faults=("packed rows give no numbers in this number format",))
        faults = {f"attention in one call is not used: {fault}" for fault in try_kernels().values()}
        return replace(rows, faults=tuple(sorted(faults)))
    finally:
        set_packing(model, was)


def _find_layout(model: "PreTrainedModel | PeftModel", sequences: Sequence[Tokens]) -> ExactRows:
    set_packing(model, False)
    tried = partial(_logps, model, sequences)
    # What goes wrong here goes wrong in any layout.
    plain, _ = _computed(model, sequences, share_prompts=False)
    shared = _agree(plain, tried(share_prompts=True))
    set_packing(model, True)
    if packs(model) and _agree(plain, tried(share_prompts=False)):
        packed_and_shared = _agree(plain, tried(share_prompts=True))
        if (packed_and_shared or not shared) and _keeps_apart(model, plain, sequences):
            return ExactRows(packed=True, shared=packed_and_shared)
    return ExactRows(packed=False, shared=shared)


def _sequences(vocabulary: int, *, prompt_tokens: int) -> list[Tokens]:
    """Two completions of a prompt, with those of two shorter ones between and after them."""
    draw = torch.Generator().manual_seed(0)

    def drawn(tokens: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (tokens,), generator=draw).tolist())

    prompt = drawn(prompt_tokens)
    others = Tokens(drawn(6), drawn(6)), Tokens(drawn(3), drawn(3))
    return [Tokens(prompt, drawn(4)), others[0], Tokens(prompt, drawn(5)), others[1]]


def _keeps_apart(model: "PreTrainedModel | PeftModel", plain: Tensor, sequences: Sequence[Tokens]) -> bool:
    """Whether the log-probability of a packed sequence stays what it is when its neighbours are others."""
    size = model.config.vocab_size

    def other(tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tuple((token + 1 + size // 2) % size for token in tokens)

    for first in (0, 1):
        changed = [
            own if number % 2 == first else Tokens(other(own.prompt), other(own.completion))
            for number, own in enumerate(sequences)
        ]
        found = _logps(model, changed, share_prompts=False)
        if found is None or not _agree(plain[first::2], found[first::2]):
            return False
    return True


def _logps(
    model: "PreTrainedModel | PeftModel",
    sequences: Sequence[Tokens],
    *,
    share_prompts: bool,
    rounding: float = ROUNDING,
) -> Tensor | None:
    """Log-probabilities, or None where the architecture refuses, or packed rows go on differently later."""
    try:
        logps, again = _computed(model, sequences, share_prompts=share_prompts)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        # That says nothing of the architecture.
        if is_out_of_memory(error):
            raise
        return None
    return logps if _agree(logps, again, rounding) else None


def _computed(
    model: "PreTrainedModel | PeftModel", sequences: Sequence[Tokens], *, share_prompts: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and again those of the completions as they go on from packed prompts that were kept."""
    keep = KeptPrompts() if packs(model) else None
    with evaluating(model):
        units = [[sequence] for sequence in sequences]
        logps = completion_token_logps(model, units, pad_id=0, share_prompts=share_prompts, keep=keep).sums
        if keep is None:
            return logps, logps
        return logps, continuation_logps(model, keep, [sequence.completion for sequence in sequences])


def _agree(wanted: Tensor, found: Tensor | None, rounding: float = ROUNDING) -> bool:
    return found is not None and bool((wanted - found).abs().max() <= wanted.abs().max() * rounding)


@contextmanager
def _float32(model: nn.Module) -> Iterator[None]:
    """Compute in float32 for a `with` block, whatever the number format, and whatever that of the weights.

    Weights in 16 bits become float32 one layer at a time, and stay what they are; quantised layers compute in float32.
    """
    layers = _layers(model)
    fixed = {weight for module in quantised(model) for weight in module.parameters(recurse=False)}
    within = fixed | {parameter for layer in layers for parameter in layer.parameters()}
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(next(model.parameters()).device.type, enabled=False))
        stack.enter_context(without_tf32())
        for module in quantised(model):
            if (own_format := getattr(module, "compute_dtype", None)) is not None:
                stack.callback(compute_in, module, own_format)
        compute_in(model, torch.float32)
        _widen(stack, [parameter for parameter in model.parameters() if parameter not in within])
        for layer in layers:
            own = ExitStack()
            weights = [parameter for parameter in layer.parameters() if parameter not in fixed]
            hooks = [
                layer.register_forward_pre_hook(lambda *_, own=own, weights=weights: _widen(own, weights)),
                layer.register_forward_hook(lambda *_, own=own: own.close(), always_call=True),
            ]
            for hook in hooks:
                stack.callback(hook.remove)
        yield


def _widen(stack: ExitStack, parameters: Sequence[nn.Parameter]) -> None:
    """Make the 16-bit ones float32 until the stack closes."""
    for parameter in parameters:
        if parameter.is_floating_point() and parameter.itemsize == 2:
            stack.callback(setattr, parameter, "data", parameter.data)
            parameter.data = parameter.data.float()


def _layers(model: nn.Module) -> list[nn.Module]:
    """The members of lists of modules that are in no other such member: a transformer's layers."""
    found: list[nn.Module] = []
    for module in model.children():
        found += list(module) if isinstance(module, nn.ModuleList) else _layers(module)
    return found
