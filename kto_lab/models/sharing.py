"""Memory of weights: models that share it, and models that let go of it."""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from kto_lab.models.adapters import Policy


def sharing(model: Policy) -> Policy:
    """A model whose modules and buffers are its own, and whose parameters share their memory with those of another.

    So it can be given an adapter, other formats or another device while the other model stays as it was, at no cost of
    memory. Nothing may write into its parameters in place: what is trained on the device that it shares is copied.
    Quantised matrices, which know more than their numbers, are copied, too.
    """
    # What deepcopy finds in its memo is not copied.
    shared = {id(own): nn.Parameter(own.detach(), requires_grad=own.requires_grad) for own in _plain(model)}
    twin: Policy = copy.deepcopy(model, shared)
    return twin


def emptied(model: nn.Module) -> None:
    """Free the memory of a model that is needed no more, whoever still names it."""
    for parameter in _plain(model):
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)


def _plain(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if type(parameter) is nn.Parameter)
