"""The pretended device itself: it counts, refuses and computes as a real one, and leaves nothing behind."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from tests.pretend.flash import WrongInputError
from tests.pretend.ledger import Ledger
from tests.pretend.tensor import CUDA, MixedDevicesError, Pretend
from tests.pretend_cuda import pretend_cuda


def test_nothing_is_left_behind() -> None:
    before = (torch.autocast, torch.is_autocast_enabled, torch.cuda.is_available, nn.Module._apply)
    with pretend_cuda():
        assert torch.cuda.is_available() and torch.ones(2, device="cuda").is_cuda
    assert before == (torch.autocast, torch.is_autocast_enabled, torch.cuda.is_available, nn.Module._apply)
    assert type(torch.ones(2) + 1) is Tensor


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        ("item", lambda there, here: there[0].item()),
        ("tolist", lambda there, here: there.tolist()),
        ("bool", lambda there, here: bool((there > 0).all())),
        ("float", lambda there, here: float(there.sum())),
        ("index", lambda there, here: [1, 2][there.long()[1]]),
        ("nonzero", lambda there, here: there.nonzero()),
        ("masked index", lambda there, here: there[there > 0]),
        ("index on the CPU", lambda there, here: there[torch.tensor([1, 0])]),
        ("index on the CPU", lambda there, here: there[[1, 0]]),
        ("repeat_interleave", lambda there, here: there.repeat_interleave(there.long())),
        ("copy to the host", lambda there, here: there.cpu()),
        ("copy to the host", lambda there, here: here.copy_(there)),
        ("copy to the device", lambda there, here: here.to("cuda")),
        ("copy to the device", lambda there, here: here.to(CUDA, non_blocking=True)),
        ("copy to the device", lambda there, here: there.copy_(here)),
        ("copy to the device", lambda there, here: torch.tensor([1.0], device="cuda")),
    ],
)
def test_waits_are_counted_with_their_kind(cuda: Ledger, kind: str, act: Callable[[Tensor, Tensor], Any]) -> None:
    there, here = torch.arange(3.0, device="cuda"), torch.arange(3.0)
    assert not cuda.waits
    act(there, here)
    assert [(wait.kind, count) for wait, count in cuda.waits.items()] == [(kind, 1)]


def test_what_is_queued_is_no_wait(cuda: Ledger) -> None:
    there = torch.ones(4, 4, device="cuda", requires_grad=True)
    at = torch.tensor([2, 0]).pin_memory().to("cuda", non_blocking=True)
    taken = there.index_select(0, at) @ torch.eye(4, device=there.device)
    (taken.sum() * torch.tensor(2.0)).backward()
    assert there.grad is not None and there.grad.is_cuda and not cuda.waits
    assert there.grad.sum(1).tolist() == [8, 0, 8, 0]


def test_the_place_of_a_wait_is_a_line_of_the_lab(cuda: Ledger) -> None:
    from kto_lab.models.number_format import check_finite

    check_finite(nn.Linear(2, 2).to("cuda"))
    assert {wait.place.partition(":")[0] for wait in cuda.waits if wait.kind == "bool"} == {"models/number_format.py"}


def test_devices_do_not_mix(cuda: Ledger) -> None:
    there, here = torch.ones(2, device="cuda"), torch.ones(2)
    for act in (
        lambda: there + here,
        lambda: here * there,
        lambda: here[there.long()],
        lambda: torch.where(there > 0, there, here),
        lambda: torch.cat([there, here]),
        lambda: torch.stack([there[0], here[0]]),
        lambda: F.linear(there, torch.ones(2, 2)),
    ):
        with pytest.raises(MixedDevicesError, match="cuda:0"):
            act()
    assert (there + here[0]).is_cuda, "a number of the CPU becomes an argument of the kernel"


def test_a_model_moves_there_and_back(cuda: Ledger) -> None:
    """Tied weights stay tied, a copy is another model, and a file holds what the CPU's would."""
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5, bias=False))
    model[1].weight = model[0].weight
    before = copy.deepcopy(model)(torch.tensor([1, 2]))
    model.to("cuda")
    assert model[1].weight is model[0].weight and isinstance(model[0].weight, nn.Parameter)
    assert len(list(model.parameters())) == 1
    ids = torch.tensor([1, 2], device="cuda")
    other = copy.deepcopy(model)
    assert other[1].weight is other[0].weight is not model[0].weight
    model.bfloat16()
    assert model[0].weight.dtype == model[0].weight.data.dtype == torch.bfloat16
    torch.testing.assert_close(other(ids).cpu(), before)
    other.cpu()
    assert type(other[0].weight) is nn.Parameter and other[1].weight is other[0].weight


def test_autocast_is_that_of_the_device(cuda: Ledger) -> None:
    layer, states = nn.Linear(8, 8).to("cuda"), torch.ones(1, 8, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert layer(states).dtype == torch.bfloat16 and torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", enabled=False):
            assert layer(states).dtype == torch.float32
        assert torch.get_autocast_dtype("cuda") == torch.bfloat16 and torch.is_autocast_enabled("cuda")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(states).dtype == torch.float32


LENGTHS, KEY_LENGTHS = (3, 1, 4), (5, 1, 6)  # of queries, and of their keys, which end together


def starts(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int().pin_memory().to("cuda", non_blocking=True)


def drawn(heads: int, tokens: int, seed: int) -> Tensor:
    values = torch.randn(tokens, heads, 16, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return values.to("cuda").requires_grad_()


def attended(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    return varlen_attn(
        query,
        key,
        value,
        starts(LENGTHS),
        starts(KEY_LENGTHS),
        max(LENGTHS),
        max(KEY_LENGTHS),
        window_size=(window, 0),
        enable_gqa=True,
    )


@pytest.mark.parametrize("window", [-1, 1])
def test_flash_attention_is_emulated_in_both_directions(cuda: Ledger, window: int) -> None:
    """Against SDPA in float32, sequence by sequence."""
    parts = drawn(4, sum(LENGTHS), 0), drawn(2, sum(KEY_LENGTHS), 1), drawn(2, sum(KEY_LENGTHS), 2)
    weights = drawn(4, sum(LENGTHS), 3).detach()
    found = attended(*parts, window)
    gradients = torch.autograd.grad((found * weights).sum(), parts)
    plain = [part.detach().cpu().float().requires_grad_() for part in parts]
    wanted = []
    for q, k, v in zip(
        *(part.split(n) for part, n in zip(plain, (LENGTHS, *[KEY_LENGTHS] * 2), strict=True)), strict=True
    ):
        before = len(k) - len(q)
        sees = torch.ones(len(q), len(k), dtype=torch.bool).tril(before)
        sees = sees.triu(before - window) if window >= 0 else sees
        q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
        wanted.append(F.scaled_dot_product_attention(q, k, v, attn_mask=sees, enable_gqa=True)[0].transpose(0, 1))
    right = torch.cat(wanted)
    torch.testing.assert_close(found.float().cpu(), right, rtol=1e-2, atol=1e-2)
    of_right = torch.autograd.grad((right * weights.cpu().float()).sum(), plain)
    for ours, theirs in zip(gradients, of_right, strict=True):
        torch.testing.assert_close(ours.float().cpu(), theirs, rtol=2e-2, atol=2e-2)
    assert cuda.flash == {"torch.bfloat16": 2}


@pytest.mark.parametrize("wrong", ["format", "stride", "starts", "length", "size"])
def test_flash_attention_refuses_what_the_kernels_refuse(cuda: Ledger, wrong: str) -> None:
    query = torch.ones(8, 2, 12 if wrong == "size" else 16, device="cuda", dtype=torch.bfloat16)
    if wrong == "format":
        query = query.float()
    if wrong == "stride":
        query = query.transpose(0, 1).contiguous().transpose(0, 1)
    bounds = starts(LENGTHS).long() if wrong == "starts" else starts(LENGTHS)
    longest = 3 if wrong == "length" else 4
    with pytest.raises(RuntimeError if wrong == "size" else WrongInputError):
        varlen_attn(query, query, query, bounds, bounds, longest, longest, window_size=(-1, 0))


def test_products_of_16_bits_give_float32(cuda: Ledger) -> None:
    half = torch.ones(2, 2, device="cuda", dtype=torch.bfloat16)
    assert torch.mm(half, half, out_dtype=torch.float32).dtype == torch.float32
    assert isinstance(torch.empty(2, device=half.device), Pretend)
