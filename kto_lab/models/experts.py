"""Mixtures of experts in bf16-mixed: experts' products read their weights as autocast has it for every other layer.

transformers keeps the weights of all experts of a layer in one parameter and multiplies by a grouped product, which
autocast does not know: it would take float32 weights as they are, several times slower, and 16-bit ones as 16-bit ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

# transformers' name of the grouped product, and ours of the one that heeds autocast.
GROUPED, NAME = "grouped_mm", "grouped_mm_as_autocast"
# In the names of the classes that hold weights of experts, and of what chooses experts, as parameters of their own.
KINDS = ("Expert", "Router")


def weights_of_experts(module: nn.Module) -> list[nn.Parameter]:
    """The matrices that a module has as parameters of its own, if it is experts or what chooses them; no biases."""
    if not any(kind in type(module).__name__ for kind in KINDS):
        return []
    own = module.named_parameters(recurse=False)
    return [parameter for name, parameter in own if parameter.ndim > 1 and not name.endswith("bias")]


def heed_autocast(model: nn.Module) -> None:
    """Have a model's experts computed in autocast's format, where it has such and autocast is on."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config._experts_implementation == GROUPED:
            module.config._experts_implementation = NAME


def grouped_mm_as_autocast(module: nn.Module, states: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """transformers' experts interface: each token's experts, summed; see `grouped_mm_experts_forward`.

    Args:
        module: the experts.
        states: (tokens, hidden).
        chosen: (tokens, experts of a token) which they are.
        shares: likewise, what each counts.
    """
    device = states.device.type
    if not torch.is_autocast_enabled(device):
        whole: Tensor = grouped_mm_experts_forward(module, states, chosen, shares)
        return whole
    with _narrowed(module, torch.get_autocast_dtype(device)):
        found: Tensor = grouped_mm_experts_forward(module, states, chosen, shares)
    return found


@contextmanager
def _narrowed(module: nn.Module, number_format: torch.dtype) -> Iterator[None]:
    """The module's weights in another format for a `with` block; their gradients go to those that are there."""
    weights = dict(module.named_parameters(recurse=False))
    matrices = set(weights_of_experts(module))
    # Found before parameters are.
    module.__dict__ |= {name: weight.to(number_format) for name, weight in weights.items() if weight in matrices}
    try:
        yield
    finally:
        for name in weights:
            module.__dict__.pop(name, None)


ALL_EXPERTS_FUNCTIONS.register(NAME, grouped_mm_as_autocast)
