"""What torch's `varlen_attn` computes on a GPU, forward and backward, in its number formats."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Flash(torch.autograd.Function):
    """Attention over sequences of several lengths, where the last query meets the last key; in 16 bits.

    Products sum in float32; the weights of the softmax and the gradients of the scores are rounded before they are
    multiplied, as in the kernel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        starts: Tensor,
        key_starts: Tensor,
        scale: float,
        before: int,
        ahead: int,
    ) -> Tensor:
        out = torch.zeros(len(q), q.shape[1], v.shape[2])
        for rows, columns in _sequences(starts, key_starts):
            weights = _weights(q[rows], k[columns], scale, before, ahead)
            out[rows] = (weights.to(q.dtype).float() @ _heads(v[columns], q)).transpose(0, 1)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, starts, key_starts, out)
        ctx.how = scale, before, ahead
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, starts, key_starts, out = ctx.saved_tensors
        assert gradients[0].dtype == q.dtype
        of_q, of_k, of_v = (torch.zeros(part.shape) for part in (q, k, v))
        for rows, columns in _sequences(starts, key_starts):
            weights = _weights(q[rows], k[columns], *ctx.how)
            of_out, own = (part[rows].float().transpose(0, 1) for part in (gradients[0], out))
            of_weights = of_out @ _heads(v[columns], q).transpose(1, 2)
            of_scores = weights * (of_weights - (of_out * own).sum(-1, keepdim=True)) * ctx.how[0]
            of_scores = of_scores.to(q.dtype).float()
            of_q[rows] = (of_scores @ _heads(k[columns], q)).transpose(0, 1)
            own_q = q[rows].float().transpose(0, 1)
            of_k[columns] += _key_heads(of_scores.transpose(1, 2) @ own_q, k)
            of_v[columns] += _key_heads(weights.to(q.dtype).float().transpose(1, 2) @ of_out, v)
        return of_q.to(q.dtype), of_k.to(q.dtype), of_v.to(q.dtype), None, None, None, None, None


def _sequences(starts: Tensor, key_starts: Tensor) -> Iterator[tuple[slice, slice]]:
    own, keys = starts.tolist(), key_starts.tolist()
    for number in range(len(own) - 1):
        yield slice(own[number], own[number + 1]), slice(keys[number], keys[number + 1])


def _heads(part: Tensor, q: Tensor) -> Tensor:
    return part.float().transpose(0, 1).repeat_interleave(q.shape[1] // part.shape[1], 0)


def _key_heads(gradient: Tensor, part: Tensor) -> Tensor:
    return gradient.view(part.shape[1], -1, *gradient.shape[1:]).sum(1).transpose(0, 1)


def _weights(q: Tensor, k: Tensor, scale: float, before: int, ahead: int) -> Tensor:
    scores = q.float().transpose(0, 1) @ _heads(k, q).transpose(1, 2) * scale
    last = len(k) - len(q)
    mask = torch.ones(len(q), len(k), dtype=torch.bool).tril(last + ahead)
    if before >= 0:
        mask = mask.triu(last - before)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


def varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    longest: int,
    most: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    ahead: int = 0,
) -> Tensor:
    """The kernel, with what it demands of its arguments; a wrong one sees tokens ahead, or not all behind."""
    assert q.dtype == k.dtype == v.dtype and q.dtype in (torch.bfloat16, torch.float16)
    assert q.is_contiguous() and k.is_contiguous() and v.is_contiguous()
    assert starts.dtype == key_starts.dtype == torch.int32
    assert (int(starts[-1]), int(key_starts[-1])) == (len(q), len(k))
    assert (int(starts.diff().max()), int(key_starts.diff().max())) == (longest, most)
    assert window_size[1] == 0 and (enable_gqa or q.shape[1] == k.shape[1])
    found = Flash.apply(q, k, v, starts, key_starts, scale or q.shape[-1] ** -0.5, window_size[0], ahead)
    assert isinstance(found, Tensor)
    return found
