"""Weights as matrix products read them, held for the length of a computation.

Under autocast each product converts its weight to 16 bits. Autocast keeps what it has converted where the weight has a
gradient, and until its outermost block ends; a frozen weight it converts again at every use, in a generation for every
token. Here weights are converted once, and the copies live as long as the block.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

# What leaves its product to autocast; a subclass, such as a quantised layer, may compute in a way of its own.
PLAIN = (nn.Linear, Conv1D)


def product_format(device: torch.device) -> torch.dtype | None:
    """The format that autocast gives to the operands of matrix products; None outside of autocast."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


@contextmanager
def converted_once(model: nn.Module, device: torch.device) -> Iterator[None]:
    """For a block of passes without gradients, linear layers hold their weights as products read them.

    What a pass gives is the same, bit for bit. Outside of autocast nothing is converted. An embedding that shares its
    weight with the head keeps its own, and so do sharded and quantised layers, experts, and layers of other kinds.

    Args:
        model: on the device.
        device: of autocast.
    """
    number_format = product_format(device)
    if number_format is None:
        yield
        return
    own: list[tuple[nn.Module, str, nn.Parameter]] = []
    converted: dict[nn.Parameter, nn.Parameter] = {}
    try:
        for module in model.modules():
            if type(module) not in PLAIN or type(module.weight) is not nn.Parameter:
                continue
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.dtype != torch.float32:
                    continue
                if parameter not in converted:
                    converted[parameter] = nn.Parameter(parameter.detach().to(number_format), requires_grad=False)
                own.append((module, name, parameter))
                setattr(module, name, converted[parameter])
        yield
    finally:
        for module, name, parameter in own:
            setattr(module, name, parameter)
