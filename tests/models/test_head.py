"""Chunked log-probabilities against log_softmax, forward and backward, whatever is kept and however it is cut."""

import pytest
import torch
from torch import Tensor, nn

from kto_lab.models import head as module
from kto_lab.models.head import LogitMap, token_logps
from tests.pretend.ledger import Ledger

T, H, V = 23, 16, 50


def made(requires: tuple[bool, bool]) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    head = nn.Linear(H, V, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(V, H, generator=draw))
    head.weight.requires_grad_(requires[1])
    states = torch.randn(T, H, generator=draw).requires_grad_(requires[0])
    return head, states, torch.randint(V, (T,), generator=draw), torch.randn(T, generator=draw)


def plainly(head: nn.Linear, states: Tensor, targets: Tensor, logit_map: LogitMap | None = None) -> Tensor:
    logits = states.double() @ head.weight.double().T
    if logit_map:
        logits = logits * logit_map.scale
        logits = logits if logit_map.cap is None else logit_map.cap * torch.tanh(logits / logit_map.cap)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


MAPS = [LogitMap(), LogitMap(0.25), LogitMap(cap=3.0), LogitMap(0.5, 2.0)]


@pytest.mark.parametrize("logit_map", MAPS, ids=["as it is", "scaled", "capped", "scaled and capped"])
@pytest.mark.parametrize("rows", [1, 7, 1000], ids=lambda rows: f"{rows} at once")
@pytest.mark.parametrize("kept", [0, 2**26], ids=["computed again", "kept"])
@pytest.mark.parametrize("requires", [(True, True), (True, False), (False, True)], ids=["both", "states", "weight"])
def test_values_and_gradients_are_those_of_log_softmax(
    monkeypatch: pytest.MonkeyPatch, rows: int, kept: int, requires: tuple[bool, bool], logit_map: LogitMap
) -> None:
    monkeypatch.setattr(module, "CHUNK", rows * V)
    monkeypatch.setattr(module, "KEPT", kept)
    head, states, targets, weights = made(requires)
    wanted_of = [tensor for tensor in (states, head.weight) if tensor.requires_grad]
    found = token_logps(head, states, targets, logit_map)
    wanted = plainly(head, states, targets, logit_map)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad((found * weights).sum(), wanted_of)
    for ours, theirs in zip(gradients, torch.autograd.grad((wanted * weights).sum(), wanted_of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [0, 2**26], ids=["computed again", "kept"])
def test_a_second_backward_gives_the_same(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(module, "KEPT", kept)
    head, states, targets, weights = made((True, True))
    total = (token_logps(head, states, targets) * weights).sum()
    first = torch.autograd.grad(total, [states, head.weight], retain_graph=True)
    again = torch.autograd.grad(total, [states, head.weight])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_no_tensor_of_all_logits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the probabilities are too many to keep, only chunks of them exist, in either direction."""
    monkeypatch.setattr(module, "CHUNK", 4 * V)
    monkeypatch.setattr(module, "KEPT", 0)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
            out = func(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, Tensor) else 0)
            return out

    head, states, targets, _ = made((True, True))
    with Watch():
        token_logps(head, states, targets).sum().backward()
    assert max(sizes) == V * H < T * V, "the weight's gradient is the largest tensor"


def test_a_head_with_a_bias_takes_the_plain_way() -> None:
    draw = torch.Generator().manual_seed(0)
    head = nn.Linear(H, V)
    states, targets = torch.randn(T, H, generator=draw), torch.randint(V, (T,), generator=draw)
    for logit_map in MAPS:
        wanted = logit_map(head(states)).log_softmax(-1).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(token_logps(head, states, targets, logit_map), wanted)


def test_in_bfloat16_the_logits_are_float32() -> None:
    """Operands are rounded, sums are not: a logit near 20 rounded to 8 bits would be off by up to 0.06 nats."""
    head, states, targets, _ = made((True, True))
    with torch.no_grad():
        head.weight.mul_(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logps(head, states, targets)
    rounded = nn.Linear(H, V, bias=False)
    with torch.no_grad():
        rounded.weight.copy_(head.weight.bfloat16())
    torch.testing.assert_close(found.double(), plainly(rounded, states.bfloat16(), targets), rtol=1e-5, atol=1e-4)
    found.sum().backward()
    assert states.grad is not None and states.grad.dtype == torch.float32
    assert head.weight.grad is not None and head.weight.grad.dtype == torch.float32


def test_a_gpu_computes_as_many_logits_at_a_time_as_its_memory_bears(cuda: Ledger) -> None:
    """A hundred rows of a large vocabulary would not keep it busy; the values are those of smaller chunks."""
    assert module._rows_at_once(131_072, torch.device("cpu")) == 128
    assert module._rows_at_once(131_072, torch.device("cuda", 0)) == 1280
    head, states, targets, weights = made((True, True))
    here = torch.autograd.grad((token_logps(head, states, targets) * weights).sum(), [states, head.weight])
    there = nn.Linear(H, V, bias=False).to("cuda")
    there.load_state_dict(head.state_dict())
    moved = states.detach().to("cuda").requires_grad_()
    before = cuda.waits.total()
    logps = token_logps(there, moved, targets.pin_memory().to("cuda", non_blocking=True))
    assert cuda.waits.total() == before
    found = torch.autograd.grad((logps * weights.to("cuda")).sum(), [moved, there.weight])
    for ours, theirs in zip(found, here, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs)
