"""Flash attention over sequences of several lengths in one row (`torch.nn.attention.varlen`), computed on the CPU.

It refuses what the kernels refuse, and computes what they compute: the last query of a sequence meets its last key, a
window counts from there, and of several query heads that share a key head each sees its own. As in the kernels products
sum in float32, and the weights of the softmax and the gradients of the scores are rounded before they are multiplied.

`emulated` stands for torch's operators, `varlen` for the function that calls them.
"""

from typing import Any

import torch
from torch import Tensor

NAMES = ("torch_attn::_varlen_attn", "torch_attn::_varlen_attn_backward")


class WrongInputError(AssertionError):
    """What flash attention was given would be refused, or read wrongly, on a GPU.

    Not a RuntimeError: the lab takes such as an architecture's refusal of packed rows, and goes on without.
    """


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    longest: int,
    most_keys: int,
    is_causal: bool = False,
    scale: float | None = None,
    window: list[int] | None = None,
    enable_gqa: bool = False,
    *unused: None,
    ahead: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention (T, heads, size), its log-sum-exp (heads, T), and a state of random numbers; all plain tensors.

    `ahead` makes a kernel that is wrong: each query stands so many keys later than it should.
    """
    _check(query, key, value, starts, key_starts, longest, most_keys)
    if any(argument is not None for argument in unused):
        raise WrongInputError("only what the lab asks for is emulated")
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise WrongInputError("query heads share key heads, and enable_gqa is off")
    found, sums = [], []
    for queries, keys in _sequences(starts, key_starts):
        scores = _scores(query, key, queries, keys, is_causal, scale, window, ahead)
        sums.append(scores.logsumexp(-1))
        found.append((_rounded(scores.softmax(-1), query) @ _heads(value[keys], query)).transpose(0, 1))
    return torch.cat(found).to(query.dtype), torch.cat(sums, 1), torch.zeros(2, dtype=torch.uint64)


def backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    longest: int,
    most_keys: int,
    is_causal: bool,
    random_state: Tensor,
    scale: float | None = None,
    window: list[int] | None = None,
    ahead: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from that of the attention and from what `forward` returned."""
    _check(query, key, value, starts, key_starts, longest, most_keys)
    if gradient.dtype != query.dtype:
        raise WrongInputError(f"the gradient is {gradient.dtype}, the query {query.dtype}")
    of_query, of_key, of_value = (torch.zeros_like(part, dtype=torch.float32) for part in (query, key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    for queries, keys in _sequences(starts, key_starts):
        scores = _scores(query, key, queries, keys, is_causal, scale, window, ahead)
        weights = (scores - sums[:, queries, None]).exp()
        of_out, made = (part[queries].float().transpose(0, 1) for part in (gradient, out))
        of_weights = of_out @ _heads(value[keys], query).transpose(1, 2)
        of_scores = _rounded(weights * (of_weights - (of_out * made).sum(-1, keepdim=True)) * factor, query)
        of_query[queries] = (of_scores @ _heads(key[keys], query)).transpose(0, 1)
        of_key[keys] += _shared(of_scores.transpose(1, 2) @ query[queries].float().transpose(0, 1), key)
        of_value[keys] += _shared(_rounded(weights, query).transpose(1, 2) @ of_out, key)
    return of_query.to(query.dtype), of_key.to(key.dtype), of_value.to(value.dtype)


def emulated(name: str, args: Any) -> Any:
    """The result of one of the two operators `NAMES`."""
    with torch.no_grad():
        return (forward if name == NAMES[0] else backward)(*args)


class _Varlen(torch.autograd.Function):
    """`forward` and `backward` on plain tensors, differentiable."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        query, key, value, starts, key_starts, longest, most_keys, scale, window, enable_gqa, ahead = arguments
        bounds = starts, key_starts, longest, most_keys
        how = {"scale": scale, "window": window, "ahead": ahead}
        out, sums, ctx.random_state = forward(query, key, value, *bounds, enable_gqa=enable_gqa, **how)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.bounds, ctx.how = bounds, how
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        how = {"is_causal": False, "random_state": ctx.random_state} | ctx.how
        found = backward(gradients[0], *ctx.saved_tensors, *ctx.bounds, **how)
        return *found, *8 * (None,)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    longest: int,
    most_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    ahead: int = 0,
) -> Tensor:
    """What torch's `varlen_attn` gives as the lab calls it; with `ahead` a wrong kernel, see `forward`."""
    bounds = starts, key_starts, longest, most_keys
    found = _Varlen.apply(query, key, value, *bounds, scale, list(window_size), enable_gqa, ahead)
    assert isinstance(found, Tensor)
    return found


def _check(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, key_starts: Tensor, longest: int, most_keys: int
) -> None:
    parts = (query, key, value)
    if query.dtype not in (torch.bfloat16, torch.float16) or len({part.dtype for part in parts}) > 1:
        raise WrongInputError(f"flash attention takes one 16-bit format, and got {[part.dtype for part in parts]}")
    if not all(part.is_contiguous() for part in parts):
        raise WrongInputError("flash attention got a tensor that is not contiguous")
    if query.shape[-1] % 8 or query.shape[-1] > 256:
        # What torch says, and what the lab bears: the architecture's rows are then padded.
        raise RuntimeError(f"flash attention takes head sizes that are multiples of 8 up to 256, not {query.shape[-1]}")
    for bounds, part, most in ((starts, query, longest), (key_starts, key, most_keys)):
        if bounds.dtype != torch.int32:
            raise WrongInputError(f"starts of sequences are {bounds.dtype}, not int32")
        if int(bounds[0]) != 0 or int(bounds[-1]) != len(part):
            raise WrongInputError(f"starts of sequences run from {int(bounds[0])} to {int(bounds[-1])} of {len(part)}")
        if int(bounds.diff().max()) != most or int(bounds.diff().min()) < 0:
            raise WrongInputError(f"the longest sequence is said to have {most} tokens, of {bounds.diff().tolist()}")


def _sequences(starts: Tensor, key_starts: Tensor) -> list[tuple[slice, slice]]:
    """Where the queries and the keys of each sequence stand."""
    own, keys = starts.tolist(), key_starts.tolist()
    return [
        (slice(own[number], own[number + 1]), slice(keys[number], keys[number + 1])) for number in range(len(own) - 1)
    ]


def _heads(part: Tensor, query: Tensor) -> Tensor:
    """(heads, tokens, size) in float32, a key head repeated for each query head that shares it."""
    return part.float().transpose(0, 1).repeat_interleave(query.shape[1] // part.shape[1], 0)


def _shared(of_heads: Tensor, key: Tensor) -> Tensor:
    """(tokens, key heads, size) gradients, summed over the query heads that share a key head."""
    _, tokens, size = of_heads.shape
    return of_heads.view(key.shape[1], -1, tokens, size).sum(1).transpose(0, 1)


def _rounded(values: Tensor, query: Tensor) -> Tensor:
    """As they are multiplied: in the number format of the query, here in float32 again."""
    return values.to(query.dtype).float()


def _scores(
    query: Tensor,
    key: Tensor,
    queries: slice,
    keys: slice,
    is_causal: bool,
    scale: float | None,
    window: list[int] | None,
    ahead: int,
) -> Tensor:
    """(heads, queries, keys) scores of a sequence, -inf where a query does not see a key."""
    own = query[queries].float().transpose(0, 1)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = own @ _heads(key[keys], query).transpose(1, 2) * factor
    before, after = (-1, 0) if is_causal else window or (-1, -1)
    place = torch.arange(scores.shape[1])[:, None] + scores.shape[2] - scores.shape[1] + ahead
    at = torch.arange(scores.shape[2])[None]
    sees = torch.ones(scores.shape[1:], dtype=torch.bool)
    if before >= 0:
        sees &= at >= place - before
    if after >= 0:
        sees &= at <= place + after
    return scores.masked_fill(~sees, float("-inf"))
