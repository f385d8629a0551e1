"""Quantised bases: weights in 4 or 8 bits, frozen under an adapter (QLoRA: Dettmers et al. 2023, arXiv 2305.14314).

A quantised matrix is dequantised wherever a product reads it, so the policy computes with the dequantised weights, and
so does its reference. Nothing of them is trained, rounded again or dithered. What is looked up, the norms and the head
stay as they were loaded.
"""

import copy
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

from kto_lab.errors import LabError

Quantization: TypeAlias = Literal["nf4", "int8"]
# The library of each kind.
LIBRARY = {"nf4": "bitsandbytes", "int8": "torchao"}


def config_of(kind: Quantization) -> BitsAndBytesConfig | TorchAoConfig:
    """What transformers needs to quantise a model while it is loaded.

    Args:
        kind: "nf4": 4 bits at the quantiles of a normal distribution, scales quantised once more, by bitsandbytes;
            "int8": integers with a scale for each row, by torchao.

    Raises:
        LabError: the library is not installed.
    """
    if find_spec(LIBRARY[kind]) is None:
        raise LabError(
            f"model.quantization={kind} needs {LIBRARY[kind]}, which is not installed: "
            "pip install 'kto-lab[quantization]'."
        )
    if kind == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer's own weight is quantised, so that its numbers are not those that are computed with."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and any(True for _ in _hidden(weight))


def quantised(model: nn.Module) -> list[nn.Module]:
    """The quantised layers of a model, in its order."""
    return [module for module in model.modules() if is_quantised(module)]


def kind_of(model: PreTrainedModel, name: str) -> str | None:
    """How a model's matrices are quantised, for records; None where they are not.

    Args:
        model: as it was loaded; its folder may hold quantised weights.
        name: of the model, for messages.

    Raises:
        LabError: they are quantised in a way whose numbers would not be the lab's.
    """
    way = getattr(model.config, "quantization_config", None)
    if way is None:
        return None
    about = way if isinstance(way, dict) else way.to_dict()
    method = str(getattr(about.get("quant_method"), "value", about.get("quant_method")))
    kinds = {_kind(module.weight) for module in quantised(model)} or {None}
    if None not in kinds and len(kinds) == 1:
        return kinds.pop()
    why = (
        "in 8 bits, which splits off outliers by what else is in the batch: a log-prob would depend on its neighbours"
        if about.get("load_in_8bit")
        else "in a way that is not known here"
    )
    raise LabError(
        f"{name} is quantised by {method} (quantization_config in its config.json) {why}. Use its original weights, "
        "with model.quantization=nf4 where they should be small."
    )


def keep_packing(model: nn.Module) -> None:
    """Have quantised layers compute in evaluation as they do in training; before their first product.

    On some CPUs bitsandbytes packs the weights anew for evaluation alone, for a product that rounds differently.
    """
    for module in quantised(model):
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (to mypy a module has parameters alone)


def compute_in(model: nn.Module, number_format: torch.dtype) -> None:
    """Have quantised layers compute in a number format, whatever they were loaded in."""
    for module in quantised(model):
        layer: Any = module
        if hasattr(layer.weight, "quant_state"):
            layer.weight.quant_state.dtype = layer.compute_dtype = number_format
            # Else bitsandbytes chooses again, by its first input.
            layer.compute_type_is_set = True


def contents(tensor: Tensor) -> Iterator[Tensor]:
    """Plain tensors that hold all of a weight: itself, and the scales of a quantised one."""
    parts = list(_hidden(tensor))
    if not parts or type(tensor).__name__ == "Params4bit":
        yield tensor.detach().as_subclass(Tensor)
    yield from parts


def numbers_in(tensor: Tensor) -> int:
    """How many weights a parameter holds, of which a byte may hold two."""
    state = getattr(tensor, "quant_state", None)
    return tensor.numel() if state is None else int(state.shape.numel())


def dequantised(layer: nn.Module) -> Tensor:
    """(out, in) float32: the weights that a quantised layer computes with."""
    weight: Any = layer.weight
    if not hasattr(weight, "quant_state"):
        return weight.dequantize(torch.float32)
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(weight.quant_state)
    state.dtype = torch.float32
    return dequantize_4bit(weight.data, state)


def _kind(weight: Any) -> str | None:
    """The name of a quantised weight's kind; None for an unknown one."""
    if (state := getattr(weight, "quant_state", None)) is not None:
        return str(state.quant_type)
    return "int8" if type(weight.data).__name__ == "Int8Tensor" else None


def _hidden(tensor: Tensor) -> Iterator[Tensor]:
    """What a quantised weight holds beside, or in the place of, the numbers that its storage shows."""
    if (state := getattr(tensor, "quant_state", None)) is not None:
        yield from state.as_dict(packed=True).values()
    inside = tensor.data if isinstance(tensor, nn.Parameter) else tensor
    # A shard has its numbers inside, too, and they are those that are computed with.
    if hasattr(inside, "__tensor_flatten__") and not isinstance(inside, DTensor):
        names, _ = inside.__tensor_flatten__()
        for name in names:
            yield from contents(getattr(inside, name))
