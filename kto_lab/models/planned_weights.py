"""The weights of a policy before they are loaded: how many there are, in which formats, and how many bytes that is."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from kto_lab.models.activations import blocks_of, cast_bytes, meta_model
from kto_lab.models.adapted import is_adapted
from kto_lab.models.adapters import FullFineTuning, Lora, Policy
from kto_lab.models.number_format import add_in_float32, as_read
from kto_lab.models.products import PLAIN
from kto_lab.models.quantization import Quantization

# Bytes per weight: of nf4 4 bits, and for 64 weights a scale of 8 bits, for 256 of which there is one of 32.
NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Weights:
    """Sizes of a policy's weights.

    Attributes:
        bytes: of all, in the formats that are computed with.
        trained: how many weights are trained, as float32.
        copies: bytes of the bfloat16 copies that autocast keeps of trained matrices.
        converted: bytes of those that a generation keeps of all float32 matrices.
        largest: weights of the largest matrix.
        block: weights of the largest layer.
        outside: weights outside of the layers: embeddings, the last norm and the head.
        outside_copies: what of `copies` belongs to them.
    """

    bytes: int
    trained: int
    copies: int
    converted: int
    largest: int
    block: int
    outside: int
    outside_copies: int


def planned_policy(
    config: PretrainedConfig,
    adapter: FullFineTuning | Lora,
    *,
    dtype: torch.dtype,
    attention: str,
    narrow: bool,
    layers: int | None = None,
) -> Policy:
    """The policy that a run will train, on the meta device, in the formats that the run computes with.

    Args:
        config: of the model.
        adapter: what is trained.
        dtype: the weights are loaded in.
        attention: transformers' implementation.
        narrow: in bf16-mixed.
        layers: how many it has; None for its own number.
    """
    model = meta_model(config, dtype=dtype, attention=attention, layers=layers)
    number_format = "bf16-mixed" if narrow else "32-true"
    as_read(model, number_format=number_format, trained=adapter.trains_the_model)
    if isinstance(adapter, FullFineTuning):
        return model
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        policy = get_peft_model(model, deepcopy(adapter.config))
    if narrow:
        add_in_float32(policy)
    assert is_adapted(policy)
    return policy


def weigh(policy: Policy, quantization: Quantization | None = None, *, narrow: bool) -> Weights:
    """The sizes of a policy's weights.

    Args:
        policy: on the meta device.
        quantization: of its frozen matrices but the head.
        narrow: in bf16-mixed.
    """
    inner: Any = policy.get_base_model() if is_adapted(policy) else policy
    head = inner.get_output_embeddings()
    blocks = blocks_of(inner)
    linear = [module for module in policy.modules() if type(module) in PLAIN]
    small: set[Tensor] = set()
    if quantization is not None:
        frozen = [module for module in linear if module is not head and not module.weight.requires_grad]
        small = {weight for module in frozen if isinstance(weight := module.weight, Tensor)}
    parameters, buffers = list(policy.parameters()), list(policy.buffers())
    whole = sum(_quantised(one, quantization) if one in small else _bytes(one) for one in [*parameters, *buffers])
    converted = {one for module in linear for one in module.parameters(recurse=False) if one.dtype == torch.float32}
    copies, of_blocks = cast_bytes(policy, narrow=narrow), sum(cast_bytes(block, narrow=narrow) for block in blocks)
    sizes = [_count(block) for block in blocks]
    return Weights(
        bytes=whole,
        trained=sum(one.numel() for one in parameters if one.requires_grad),
        copies=copies,
        converted=sum(2 * one.numel() for one in converted - small) if narrow else 0,
        largest=max((one.numel() for one in parameters if one.ndim > 1), default=0),
        block=max(sizes, default=0),
        outside=_count(policy) - sum(sizes),
        outside_copies=copies - of_blocks,
    )


def _count(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _quantised(weight: Tensor, quantization: Quantization | None) -> int:
    """Bytes of a matrix in 4 or 8 bits with its scales; int8 has one for each row."""
    return round(NF4 * weight.numel()) if quantization == "nf4" else weight.numel() + 4 * len(weight)
