"""CUDA without a GPU: a block in which torch has one device, cuda:0, whose tensors are on the CPU.

What a run does there is what it does on a GPU, as far as Python decides it: which device each tensor is on, which path
and number format is taken, what flash attention is given, and where the host waits for the device. Speed, memory, the
kernels' own rounding and several devices it does not show.
"""

import contextlib
import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretend.ledger import Ledger, counted
from tests.pretend.tensor import CUDA, Pretend, asked, dispatched, is_pinned, pinned

MEMORY = 80 * 2**30


@contextlib.contextmanager
def pretend_cuda() -> Iterator[Ledger]:
    """One CUDA device, within the block.

    Yields:
        What counts the waits of the host.
    """
    ledger = Ledger()
    with pytest.MonkeyPatch.context() as patch:
        _patch_device(patch)
        _patch_autocast(patch)
        _patch_foreach(patch)
        patch.setattr(nn.Module, "_apply", _apply)
        with counted(ledger), _Functions(), _Operators():
            yield ledger


class _Operators(TorchDispatchMode):
    """Also the operators that make tensors of nothing, on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """The functions that torch's C++ code answers without an operator, or by asking for a real device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _names_cuda(kwargs.get("device")):
            made = func(*args, **{name: value for name, value in kwargs.items() if name != "device"})
            return torch.ops.aten._to_copy.default(made, device=CUDA)
        if func is Tensor.pin_memory:
            return pinned(args[0])
        if func is Tensor.is_pinned:
            return is_pinned(args[0])
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], CUDA, *args[1:])
        if func is Tensor.to:
            device, dtype, _, non_blocking = asked(args[1:], kwargs)
            if device is not None and device.type == "cuda":
                more = {"device": CUDA, "dtype": dtype, "non_blocking": non_blocking}
                return torch.ops.aten._to_copy.default(args[0], **more)
        return func(*args, **kwargs)


def _names_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, where a parameter that changes its device becomes another object: tied ones become the same.

    On a real device it stays the same object; torch cannot do that for tensors of another class.
    """
    made: dict[int, Tensor | None] = {}
    for part in module.modules() if recurse else [module]:
        for kept in (part._parameters, part._buffers):
            for name, tensor in kept.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = _applied(tensor, fn)
                kept[name] = made[id(tensor)]  # type: ignore[assignment]
    return module


def _applied(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.no_grad():
        new = fn(tensor)
    if isinstance(new, Pretend) is not isinstance(tensor, Pretend):
        return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
    if isinstance(tensor, nn.Parameter):
        tensor.data = new.detach()
        return tensor
    return new


def _patch_device(patch: pytest.MonkeyPatch) -> None:
    """What `torch.cuda` says of the device."""
    state = torch.zeros(16, dtype=torch.uint8)
    properties = types.SimpleNamespace(
        name="Pretended GPU", major=9, minor=0, total_memory=MEMORY, multi_processor_count=1
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": properties.name,
        "get_device_capability": (properties.major, properties.minor),
        "get_device_properties": properties,
        "mem_get_info": (MEMORY, MEMORY),
        "is_bf16_supported": True,
        "max_memory_allocated": 0,
        "memory_allocated": 0,
        "get_rng_state": state,
        "get_rng_state_all": [state],
        "_is_in_bad_fork": False,
    }
    silent = ("_lazy_init", "set_device", "empty_cache", "synchronize", "set_rng_state", "set_rng_state_all")
    seeds = ("manual_seed", "manual_seed_all", "reset_peak_memory_stats")
    for name in (*answers, *silent, *seeds):
        patch.setattr(torch.cuda, name, _answering(answers.get(name)))


def _answering(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: answer


def _patch_autocast(patch: pytest.MonkeyPatch) -> None:
    """Autocast of "cuda" is torch's own of the CPU, for which it takes these tensors; that of "cpu" does nothing."""
    real, is_enabled, number_format = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype

    class Autocast(real):  # type: ignore[misc, valid-type]
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            self.other = torch.device(device_type).type != "cuda"
            super().__init__("cpu", *args, **kwargs)

        def __enter__(self) -> Any:
            return self if self.other else super().__enter__()

        def __exit__(self, *error: Any) -> Any:
            return None if self.other else super().__exit__(*error)

    for owner in (torch, torch.amp, torch.amp.autocast_mode):
        patch.setattr(owner, "autocast", Autocast)
    patch.setattr(torch, "is_autocast_enabled", lambda *device: is_enabled("cpu"))
    patch.setattr(torch, "get_autocast_dtype", lambda *device: number_format("cpu"))


def _patch_foreach(patch: pytest.MonkeyPatch) -> None:
    """Optimisers and clipping take lists of these tensors at once, as they do on a GPU."""
    group = torch._C._group_tensors_by_device_and_dtype

    def grouped(lists: Any, with_indices: bool = False) -> Any:
        return {
            (CUDA if isinstance(tensors[0][0], Pretend) else device, number_format): (tensors, indices)
            for (device, number_format), (tensors, indices) in group(lists, with_indices).items()
        }

    patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", grouped)
    for owner in map(importlib.import_module, ("torch.utils._foreach_utils", "torch.optim.optimizer")):
        patch.setattr(owner, "_foreach_supported_types", [*owner._foreach_supported_types, Pretend])
