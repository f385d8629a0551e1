"""Sums of segments of a tensor: one for each completion, of the values of its tokens."""

import torch
from torch import Tensor


def segment_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """(N,) sums of segments that follow one another.

    Args:
        values: (T,) floating point.
        lengths: (N,) int64 on the same device, which add up to T.
    """
    if values.device.type == "cuda":
        # One kernel; its check of the lengths would wait for the device.
        return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
    # There a call per segment costs little, and its sum is pairwise: of less rounding error.
    return torch.stack([part.sum() for part in values.split(lengths.tolist())])
