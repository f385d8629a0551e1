"""The trial of the packed kernel accepts a right one and refuses wrong ones, in 16 bits."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kto_lab.models import attention, kernel_trial
from kto_lab.models.attention import Kernel
from kto_lab.models.kernel_trial import fault_of, forget_faults, try_kernels, worst_errors
from tests.pretend.flash import varlen

TINY = Kernel(4, 2, 32, 32, None, None, torch.bfloat16, torch.device("cpu"))
SMOLLM2 = TINY._replace(heads=9, key_heads=3, size=64, value_size=64)
RIGHT = [
    TINY,
    SMOLLM2,
    TINY._replace(reach=37),
    TINY._replace(scaling=0.02),
    TINY._replace(number_format=torch.float16, key_heads=4),
]


@pytest.mark.parametrize("kernel", RIGHT, ids=["tiny", "smollm2", "window", "scaled", "float16"])
def test_a_right_kernel_is_well_within_what_is_accepted(kernel: Kernel) -> None:
    errors = worst_errors(kernel, varlen)
    assert errors["output"] < kernel_trial.OUTPUT / 2 and max(errors.values()) < kernel_trial.GRADIENT / 2


def rescaled(by: float, *arguments: Any, scale: float | None, **how: Any) -> Tensor:
    return varlen(*arguments, scale=by * (scale or arguments[0].shape[-1] ** -0.5), **how)


def other_window(by: int, *arguments: Any, window_size: tuple[int, int], **how: Any) -> Tensor:
    return varlen(*arguments, window_size=(window_size[0] + by, 0), **how)


def leaking(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, key_starts: Tensor, *longest: int, **how: Any) -> Tensor:
    """One sequence ends a token late among the keys, and sees the first of the next one."""
    moved = key_starts.clone()
    moved[2] += 1
    return varlen(q, k, v, starts, moved, longest[0], int(moved.diff().max()), **how)


def wrong_gradient(of: int, *arguments: Any, **how: Any) -> Tensor:
    """That of one input is off by a tenth."""
    inputs = list(arguments)
    inputs[of] = inputs[of].detach() + 0.9 * (inputs[of] - inputs[of].detach())
    return varlen(*inputs, **how)


def refusing(*_: Any, **how: Any) -> Tensor:
    raise RuntimeError("no kernel for this GPU\nand more")


WRONG: dict[str, tuple[Callable[..., Tensor], Kernel]] = {
    "not causal": (partial(varlen, ahead=10**6), TINY),
    "a token ahead": (partial(varlen, ahead=1), TINY),
    "a token behind": (partial(varlen, ahead=-1), TINY),
    "scaled by 1.1": (partial(rescaled, 1.1), TINY),
    "not scaled": (partial(rescaled, 32**0.5), TINY),
    "window a token longer": (partial(other_window, 1), TINY._replace(reach=100)),
    "window a token shorter": (partial(other_window, -1), TINY._replace(reach=100)),
    "leaking": (leaking, TINY),
    "gradient of queries": (partial(wrong_gradient, 0), TINY),
    "gradient of keys": (partial(wrong_gradient, 1), TINY),
    "gradient of values": (partial(wrong_gradient, 2), TINY),
    "refusing": (refusing, TINY),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_is_refused(name: str) -> None:
    wrong, kernel = WRONG[name]
    fault = fault_of(kernel, wrong)
    assert fault == "no kernel for this GPU" if name == "refusing" else "is off by" in fault
    if name.startswith("gradient"):
        assert fault.startswith(f"its gradient of the {['query', 'key', 'value'][list(WRONG).index(name) - 8]}")


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Kernel, str | None]]:
    tried: dict[Kernel, str | None] = {}
    monkeypatch.setattr(attention, "tried", tried)
    monkeypatch.setattr(kernel_trial, "tried", tried)
    return tried


def test_what_was_asked_for_is_tried_once(untried: dict[Kernel, str | None]) -> None:
    biting = TINY._replace(reach=37)
    untried.update({biting: None, SMOLLM2: "wrong before"})
    assert try_kernels(varlen) == {}
    assert untried == {biting: "", TINY: "", SMOLLM2: "wrong before"}, "shorter sequences need no window"
    assert try_kernels(refusing) == {}, "nothing is untried"
    untried[TINY._replace(size=48)] = None
    assert try_kernels(refusing) == {TINY._replace(size=48): "no kernel for this GPU"}
    forget_faults()
    assert untried == {biting: "", TINY: ""}
