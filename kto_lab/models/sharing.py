"""Models that share the memory of their weights."""

import copy

from torch import nn

from kto_lab.models.adapters import Policy


def sharing(model: Policy) -> Policy:
    """A model whose modules and buffers are its own, and whose parameters share their memory with those of another.

    So it can be given an adapter, other formats or another device while the other model stays as it was, at no cost of
    memory. Nothing may write into its parameters in place: what is trained on the device that it shares is copied.
    """
    # What deepcopy finds in its memo is not copied.
    shared = {id(own): nn.Parameter(own.detach(), requires_grad=own.requires_grad) for own in model.parameters()}
    twin: Policy = copy.deepcopy(model, shared)
    return twin
