"""Putting tensors that were made on the CPU where they are computed with."""

import torch
from torch import Tensor


def placed(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; a GPU is not waited for, since the copy takes its turn in the GPU's stream."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
