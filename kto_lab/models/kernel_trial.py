"""Whether the kernel that takes all segments of a packed row at once computes what attention is: tried before use.

The kernel exists on GPUs alone and computes in 16 bits, so that an error of it cannot be told from rounding in the
log-probabilities of a whole model. It is tried by itself instead, forward and backward, on random queries, keys and
values that are exact in its format, at lengths as they occur, against the same attention in float32. What a model asks
of it (`attention.Kernel`) is tried once in a process; where it is wrong, or refuses, rows go through attention in
groups.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from kto_lab.memory import is_out_of_memory
from kto_lab.models.attention import Kernel, Scores, at_once, in_groups, tried
from kto_lab.models.segments import Kept, Segment, Segments, Span
from kto_lab.models.tf32 import without_tf32

# How far off the output may be at a token and head, as a share of what is right there, and a gradient. Rounding to 8
# bits is off by up to 0.004 and 0.02; a window of 4,096 tokens that is a token too long is off by 0.065 in the output
# (a shorter one by more), a gradient that is a tenth too small by 0.09.
OUTPUT, GRADIENT = 0.03, 0.06
# Standard deviation of the scores: some keys matter, and none decides alone.
SPREAD = 1.5


def try_kernels(varlen: Callable[..., Any] = varlen_attn) -> dict[Kernel, str]:
    """Try each kernel that was asked for and is untried, and the one for shorter sequences where a window bites.

    Args:
        varlen: called as torch's `varlen_attn`.

    Returns:
        What is wrong with those that are.
    """
    asked = {kernel for kernel, verdict in tried.items() if verdict is None}
    asked |= {kernel._replace(reach=None) for kernel in asked if tried.get(kernel._replace(reach=None)) is None}
    for kernel in asked:
        tried[kernel] = fault_of(kernel, varlen)
    return {kernel: fault for kernel in asked if (fault := tried[kernel])}


def forget_faults() -> None:
    """Have kernels that were found wrong tried again when a model asks for them, so that each run hears of it."""
    for kernel in [kernel for kernel, fault in tried.items() if fault]:
        del tried[kernel]


def fault_of(kernel: Kernel, varlen: Callable[..., Any]) -> str:
    """What is wrong with a kernel; "" where it is right."""
    try:
        errors = worst_errors(kernel, varlen)
    except Exception as error:  # whatever a kernel raises that this GPU or this shape does not have
        if is_out_of_memory(error):
            raise
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    shares = {name: error / (OUTPUT if name == "output" else GRADIENT) for name, error in errors.items()}
    worst = max(shares, key=shares.__getitem__)
    return "" if shares[worst] <= 1 else f"its {worst} is off by {errors[worst]:.3g} of what it should be"


def worst_errors(kernel: Kernel, varlen: Callable[..., Any]) -> dict[str, float]:
    """The largest error of the kernel's output and of its gradients, each as a share of the right value's size."""
    found = [_errors(kernel, varlen, segments, seen_width) for segments, seen_width in _layouts(kernel)]
    return {name: max(errors[name] for errors in found) for name in found[0]}


def _errors(kernel: Kernel, varlen: Callable[..., Any], segments: Segments, seen_width: int) -> dict[str, float]:
    """`worst_errors` of one row."""
    # As the model has them where there are few; else as many for each key head, and two of those.
    key_heads = min(kernel.key_heads, 2)
    heads = kernel.heads // kernel.key_heads * key_heads
    draw, module, width = torch.Generator().manual_seed(0), nn.Module(), segments.parts[-1].own.end

    def drawn(number: int, tokens: int, size: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(1, number, tokens, size, generator=draw) * scale
        return values.to(kernel.device, kernel.number_format)

    spread = SPREAD / ((kernel.scaling or kernel.size**-0.5) * kernel.size**0.5)
    inputs = {
        "query": drawn(heads, width, kernel.size, spread),
        "key": drawn(key_heads, width, kernel.size),
        "value": drawn(key_heads, width, kernel.value_size),
    }
    of_output = drawn(heads, width, kernel.value_size).transpose(1, 2)
    seen = drawn(key_heads, seen_width, kernel.size), drawn(key_heads, seen_width, kernel.value_size)
    scores = Scores(kernel.scaling, kernel.reach)

    def fast(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if segments.seen:
            segments.seen.states[module] = seen
        return at_once(module, query, key, value, segments, scores, kernel.number_format, varlen)

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if segments.seen:
            segments.seen.states[module] = seen[0].float(), seen[1].float()
        return in_groups(module, query, key, value, segments, scores)

    found = _with_gradients(inputs, of_output, fast)
    with without_tf32():
        wanted = _with_gradients({name: part.float() for name, part in inputs.items()}, of_output.float(), plain)
    return {
        # Errors of a sum that nearly cancels (the gradient of a query that one key decides) are those of its terms.
        name: _error(found[name].float(), right, floor=0.1 if name == "output" else 1.0)
        for name, right in wanted.items()
    }


def _layouts(kernel: Kernel) -> list[tuple[Segments, int]]:
    """Rows as they occur, and the width of the row that was seen: sequences alone, shared prompts, a continuation."""
    reach = kernel.reach or 0
    alone = [257, 1, 33, 128, *([reach + 70, reach, reach + 1] if reach else [])]
    prompt = max(150, reach - 20)
    parts: list[Segment] = []
    for length in alone:
        start = parts[-1].own.end if parts else 0
        parts.append(Segment(Span(start, start + length)))
    start = parts[-1].own.end
    parts.append(Segment(Span(start, start + prompt + 40)))
    shared, end = Span(start, start + prompt), start + prompt + 40
    for length in (70, 5):
        parts.append(Segment(Span(end, end + length), shared))
        end += length
    seen = [Span(0, prompt), Span(prompt, prompt + 37)]
    later = [Segment(Span(0, 64), seen[1]), Segment(Span(64, 94), seen[0]), Segment(Span(94, 95), seen[0])]
    width = seen[-1].end
    return [
        (Segments(parts, device=kernel.device), 0),
        (Segments(later, seen=Kept(), seen_width=width, device=kernel.device), width),
    ]


def _with_gradients(
    inputs: dict[str, Tensor], of_output: Tensor, attention: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """The output, and the gradients of the inputs, with the heads' values last."""
    with torch.enable_grad(), torch.autocast(of_output.device.type, enabled=False):
        leaves = [part.detach().requires_grad_() for part in inputs.values()]
        output = attention(*leaves)
        gradients = torch.autograd.grad(output, leaves, of_output)
    return {"output": output.detach()} | {
        f"gradient of the {name}": g for name, g in zip(inputs, gradients, strict=True)
    }


def _error(found: Tensor, right: Tensor, *, floor: float) -> float:
    """The largest error at a token and head, as a share of the right value there; infinite where one is not finite.

    Args:
        found: (1, ..., size).
        right: likewise.
        floor: so much of the usual size is added to that of each value.
    """
    sizes = right.norm(dim=-1)
    error = ((found - right).norm(dim=-1) / (sizes + floor * sizes.median())).max()
    return error.nan_to_num(torch.inf).item()
