"""What bf16 products do to weights, and how float32 masters are started so that training sees every update.

In bf16-mixed a weight is a float32 master, and each matrix product reads its rounding to bfloat16: 8 bits of precision,
so that a weight of 0.1 moves in steps of 0.0005. An update of 5e-5 is a tenth of that. What comes of it depends on
where in its rounding cell (the float32 numbers that round to the same bfloat16) the master starts:

- in the middle, as the weights of a bfloat16 checkpoint do: nothing, until updates add up to half a step;
- on the edge, as 8 % of the weights of a dequantised 4-bit checkpoint do: the least update moves the weight by a step;
- anywhere in the cell, at random: an update moves the weight by a step with the probability update / step. In
  expectation the rounded weights then change as the masters do.

So weights are rounded once, for the policy and its reference (`round_once`), and the masters that are trained are then
put at a random place of their cell (`dither`). Neither changes what a product reads: before the first step the policy
is its reference, bit for bit. docs/number_formats.md has the measurements.

Under an adapter no weight of the base moves; there it is the adapter's output that would be rounded away
(`add_in_float32`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# A bfloat16 is the upper half of a float32: so many float32 numbers lie between two neighbours.
CELL = 1 << 16


def matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that autocast rounds wherever a product reads them: those of linear layers, in the model's order.

    Embeddings are looked up and norms are computed in float32. A head that is tied to the embedding is a matrix.
    """
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            for parameter in module.parameters(recurse=False):
                if parameter not in seen:
                    seen.add(parameter)
                    yield parameter


@torch.no_grad()
def round_once(model: nn.Module) -> None:
    """Round, in place, what products read to the nearest bfloat16; it stays in its own format (float32)."""
    for parameter in matrices(model):
        parameter.copy_(parameter.bfloat16())


def as_read(model: nn.Module, *, number_format: str) -> None:
    """Make, in place, the weights of a model as it was loaded those that products read: policy and reference alike.

    Args:
        model: before adapters.
        number_format: Lightning's name of it.
    """
    if number_format == "bf16-mixed":
        round_once(model)


@contextmanager
def masters(policy: nn.Module, *, number_format: str, seed: int) -> Iterator[None]:
    """Train masters for a `with` block, where the number format has such; what it leaves is rounded once more.

    Args:
        policy: before its first step; see `dither`.
        number_format: Lightning's name of it.
        seed: of the places of masters.
    """
    if number_format != "bf16-mixed":
        yield
        return
    dither(policy, seed=seed)
    yield
    # What was trained, in any format that it is judged or used in.
    round_once(policy)


@torch.no_grad()
def dither(policy: nn.Module, *, seed: int) -> None:
    """Put, in place, each trained weight that is a bfloat16 number at a random place of its rounding cell.

    What is no bfloat16 number (a fresh adapter) stays as it is, as does zero, whose cell is too small to matter. Where
    the head is tied to the embedding, what is looked up is rounded from now on, so that both read the same weights.

    Args:
        policy: float32 (a weight of another format stays), after `round_once`; before its first step.
        seed: the places depend on it and on the shapes of the weights alone: every process draws the same.
    """
    generator = torch.Generator().manual_seed(seed)
    lookups = [module for module in policy.modules() if isinstance(module, nn.Embedding)]
    # An embedding of another kind does more than look up; what is tied to it stays in the middle of its cell.
    fixed = {module.weight for module in lookups if type(module) is not nn.Embedding}
    trained = [weight for weight in matrices(policy) if weight.requires_grad and weight not in fixed]
    for weight in trained:
        if weight.dtype == torch.float32:
            weight.copy_(anywhere_in_cell(weight, generator))
    for module in lookups:
        if module.weight in set(trained):
            module.register_forward_hook(_rounded)


def add_in_float32(policy: nn.Module) -> None:
    """Let the layers under adapters give float32, so that what an adapter adds is not rounded away.

    peft adds in the format of the layer's output. Under autocast that is a bfloat16 number, and adding less than half a
    step to it changes nothing. The reference, which is the policy with its adapters off, gives float32, too.
    """
    for module in policy.modules():
        if isinstance(module, LoraLayer):
            module.get_base_layer().register_forward_hook(_in_float32)


def _in_float32(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output.float()


def _rounded(module: nn.Module, args: object, looked_up: Tensor) -> Tensor:
    return looked_up.bfloat16().to(looked_up.dtype)


def anywhere_in_cell(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 numbers drawn from the rounding cells of those weights that are bfloat16 numbers.

    Each number of a cell but its two edges is as likely as any other. At a power of two, where the step downwards is
    half the step upwards, the numbers lie twice as close below, too: so the expected change of the rounding equals a
    small update on either side.

    Args:
        weights: float32, any shape.
        generator: on the CPU.
    """
    bits = weights.view(torch.int32)
    away = torch.randint(1 - CELL // 2, CELL // 2, weights.shape, generator=generator, dtype=torch.int32)
    # Steps of a float32's bits go away from zero whatever the sign.
    drawn = (bits + away.to(bits.device)).view(torch.float32)
    exact = (bits % CELL == 0) & (weights != 0) & weights.isfinite()
    return torch.where(exact, drawn, weights)
