"""In which formats weights are kept, what bf16 products do to them, and how float32 masters see every update.

What is trained is float32, whatever format the model was loaded in: AdamW's update is far below the step of a 16-bit
weight, and adding it to one changes nothing. A weight loaded in 16 bits is the same number in float32, so `model.dtype`
takes no part in what is computed. It saves memory where weights are frozen under an adapter and products read bfloat16
anyway: in bf16-mixed such a base stays in 16 bits (`as_read`).

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
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from kto_lab.errors import LabError
from kto_lab.models.adapted import is_adapted
from kto_lab.models.experts import heed_autocast, weights_of_experts
from kto_lab.models.quantization import compute_in, is_quantised, quantised

# A bfloat16 is the upper half of a float32: so many float32 numbers lie between two neighbours.
CELL = 1 << 16


def matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that autocast rounds wherever a product reads them, in the model's order.

    Those of linear layers, and the weights of experts and routers. Embeddings are looked up and norms are computed in
    float32. A head that is tied to the embedding is a matrix. Quantised matrices have numbers of their own; see
    `quantization.py`.
    """
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        if is_quantised(module):
            continue
        linear = isinstance(module, nn.Linear | Conv1D)
        for parameter in module.parameters(recurse=False) if linear else weights_of_experts(module):
            if parameter not in seen:
                seen.add(parameter)
                yield parameter


@torch.no_grad()
def round_once(model: nn.Module) -> None:
    """Round what products read to the nearest bfloat16; it stays in its own format (float32).

    What is rounded gets memory of its own: other models may share what it had. Shards stay where they are, and
    shapes without values as they are.
    """
    for parameter in matrices(model):
        rounded = parameter.bfloat16().to(parameter.dtype)
        if isinstance(parameter, DTensor):
            parameter.copy_(rounded)
        elif not parameter.is_meta and not torch.equal(rounded, parameter):
            parameter.data = rounded


@torch.no_grad()
def as_read(model: nn.Module, *, number_format: str, trained: bool) -> None:
    """Make, in place, the weights of a model as it was loaded those that are computed with: policy and reference alike.

    All become float32, but for a base that is frozen in bf16-mixed: of what was loaded in 16 bits its matrices are
    bfloat16, which is what products read, and its embeddings stay as they are. What is looked up is handed on in
    float32, so that the sums between layers keep what an adapter adds. So the results are those of the same weights
    loaded in float32.

    Args:
        model: before adapters.
        number_format: Lightning's name of it.
        trained: the model's own weights are trained; else they are frozen under an adapter.
    """
    narrow = number_format == "bf16-mixed"
    lookups = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    products = set(matrices(model))
    compute_in(model, torch.bfloat16 if narrow else torch.float32)
    fixed = {weight for module in quantised(model) for weight in module.parameters(recurse=False)}
    own = set(model.parameters()) - fixed
    short = {parameter for parameter in own if parameter.is_floating_point() and parameter.itemsize == 2}
    kept = set() if trained or not narrow else short & (products | {module.weight for module in lookups})
    for parameter in short:
        if parameter not in kept:
            parameter.data = parameter.data.float()
        elif parameter in products:
            parameter.data = parameter.data.bfloat16()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.float()
    for module in lookups:
        if module.weight in kept:
            module.register_forward_hook(_in_float32)
    if narrow:
        heed_autocast(model)
        round_once(model)


def check_finite(model: nn.Module) -> None:
    """Refuse a model with weights that are no numbers; float16 makes such of large ones.

    Raises LabError naming one of its tensors.
    """
    fixed = {weight for module in quantised(model) for weight in module.parameters(recurse=False)}
    broken = [name for name, weight in model.named_parameters() if weight not in fixed and not weight.isfinite().all()]
    if broken:
        overflow = any(weight.dtype == torch.float16 for weight in model.parameters())
        raise LabError(
            f"{len(broken)} tensors of the model hold weights that are not finite, such as {broken[0]}. "
            + (
                "float16 ends at 65,504: load it with model.dtype=bfloat16 or float32."
                if overflow
                else "Fetch the model again, or look at what wrote it."
            )
        )


def formats(policy: nn.Module) -> dict[str, str | None]:
    """In which formats the weights are that are trained, and those that are frozen (None where none are)."""

    def of(trained: bool) -> str | None:
        found = {str(p.dtype).removeprefix("torch.") for p in policy.parameters() if p.requires_grad == trained}
        return ", ".join(sorted(found)) or None

    return {"trained_dtype": of(True), "frozen_dtype": of(False)}


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
        policy: its trained weights are float32 (see `as_read`); before its first step.
        seed: the places depend on it and on the shapes of the weights alone: every process draws the same.
    """
    generator = torch.Generator().manual_seed(seed)
    lookups = [module for module in policy.modules() if isinstance(module, nn.Embedding)]
    # An embedding of another kind does more than look up; what is tied to it stays in the middle of its cell.
    fixed = {module.weight for module in lookups if type(module) is not nn.Embedding}
    trained = [weight for weight in matrices(policy) if weight.requires_grad and weight not in fixed]
    for weight in trained:
        weight.copy_(anywhere_in_cell(weight, generator))
    for module in lookups:
        if module.weight in set(trained):
            module.register_forward_hook(_rounded)


def add_in_float32(policy: nn.Module) -> None:
    """Let the layers under adapters give float32, so that what an adapter adds is not rounded away.

    peft adds in the format of the layer's output. Under autocast that is a bfloat16 number, and adding less than half a
    step to it changes nothing. The reference, which is the policy with its adapters off, gives float32, too.

    To experts and routers, whose weights are parameters of their own, peft adds in the format of the weight, and what
    autocast would read is rounded again. They are float32, whatever they were loaded in, and computed without autocast.
    """
    if not is_adapted(policy):
        return
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    for module in policy.modules():
        if isinstance(module, ParamWrapper):
            weight = module.get_param()
            weight.data = weight.data.float()
            module.register_forward_pre_hook(_leave_autocast, with_kwargs=True)
            module.register_forward_hook(_enter_autocast, always_call=True)
        elif isinstance(module, LoraLayer):
            module.get_base_layer().register_forward_hook(_in_float32)


def _leave_autocast(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    def widened(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    outside = torch.autocast(args[0].device.type, enabled=False)
    outside.__enter__()
    module.__dict__.setdefault("_outside", []).append(outside)
    return tuple(widened(arg) for arg in args), {name: widened(arg) for name, arg in kwargs.items()}


def _enter_autocast(module: nn.Module, args: object, output: object) -> None:
    module.__dict__["_outside"].pop().__exit__(None, None, None)


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
