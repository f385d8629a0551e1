"""Tensors that say they are on cuda:0, and hold their values on the CPU.

`Pretend` keeps a plain tensor of the same storage as `elem`. To torch's C++ code it is a CPU tensor, so autograd,
autocast and views work as there; what Python asks of it (`device`, `is_cuda`, `item()`) it answers as a CUDA tensor
would. Every operator goes through `dispatched`, which refuses a mixture of devices and counts waits.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from tests.pretend import flash
from tests.pretend.ledger import current, place

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten

# Operators whose result, or the size of it, the host has to read back.
READ_BACK = {
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
# Operators that take no tensor of the CPU beside those of the device, not even one number.
STRICT = {aten.cat.default, aten.stack.default, aten.index_select.default, aten.mm.default, aten.gather.default}


class MixedDevicesError(AssertionError):
    """An operator got tensors of two devices.

    Not a RuntimeError: the lab takes such as an architecture's refusal of packed rows, and goes on without.
    """


class Pretend(Tensor):
    """A tensor that says it is on cuda:0; see the module."""

    elem: Tensor

    @staticmethod
    def __new__(cls: type["Pretend"], elem: Tensor) -> "Pretend":
        """Share the storage of a plain tensor."""
        assert not isinstance(elem, Pretend)
        made = Tensor._make_subclass(cls, elem, False)
        made.elem = elem
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"Pretend({self.elem.detach()!r})"

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    @property
    def data(self) -> Tensor:
        return Pretend(self.elem.detach())

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, Pretend):
            raise MixedDevicesError(f"the data of a tensor on cuda:0 is set to one on the CPU: {place()}")
        Tensor.data.__set__(self, new)  # type: ignore[attr-defined]
        self.elem = new.elem

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.to("cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype, copy, _ = asked(args, kwargs)
        if device is not None and device.type == "meta":
            return torch.empty_like(self.elem, device="meta", dtype=dtype)
        if device is not None and device.type == "cpu":
            moved = ToHost.apply(self)
            return moved if dtype is None else moved.to(dtype)
        if dtype is None or dtype == self.dtype:
            return self.clone() if copy else self
        made: Tensor = aten._to_copy.default(self, dtype=dtype)
        return made

    def tolist(self) -> Any:
        current().wait("tolist")
        return self.elem.detach().tolist()

    def item(self) -> Any:
        current().wait("item")
        return self.elem.detach().item()

    def __bool__(self) -> bool:
        current().wait("bool")
        return bool(self.elem.detach())

    def __int__(self) -> int:
        current().wait("int")
        return int(self.elem.detach())

    def __float__(self) -> float:
        current().wait("float")
        return float(self.elem.detach())

    def __index__(self) -> int:
        current().wait("index")
        return int(self.elem.detach())

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied: Tensor = Pretend(self.elem.detach().clone())
            if isinstance(self, nn.Parameter):
                copied = nn.Parameter(copied, requires_grad=self.requires_grad)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A file holds what the CPU would; whoever reads it moves it to the device again.
        current().wait("copy to the host")
        return self.elem.detach().__reduce_ex__(protocol)


class ToHost(torch.autograd.Function):
    """A copy on the CPU, whose gradient goes back to the device."""

    @staticmethod
    def forward(ctx: Any, tensor: Pretend) -> Tensor:
        current().wait("copy to the host")
        return tensor.elem.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        current().wait("copy to the device")
        return Pretend(gradients[0].detach().clone())


def pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory."""
    copy = tensor.detach().clone()
    # Kept, so that no other tensor gets its memory.
    current().pinned[copy.untyped_storage().data_ptr()] = copy
    return copy


def is_pinned(tensor: Tensor) -> bool:
    """Whether a plain tensor is in pinned memory."""
    return tensor.untyped_storage().data_ptr() in current().pinned


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operator on tensors of which some may be pretended: checked, counted, and computed on the CPU."""
    if func is torch.ops.prim.device.default:
        return CUDA
    flat, spec = tree_flatten((args, kwargs))
    device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    there = [tensor for tensor in flat if isinstance(tensor, Pretend)]
    if device is not None and device.type == "cpu" and there:
        device = None  # C++ takes these for tensors of the CPU, and asks for their likes
    if not there and (device is None or device.type != "cuda"):
        return func(*args, **kwargs)
    here = [tensor for tensor in flat if _on_cpu(tensor)]
    _count(func, args, kwargs, device)
    _refuse_mixture(func, args, there, here)
    plain_args, plain_kwargs = tree_unflatten(
        [value.elem if isinstance(value, Pretend) else value for value in flat], spec
    )
    if device is not None and device.type == "cuda":
        plain_kwargs = {**plain_kwargs, "device": torch.device("cpu")}
        if func is aten._to_copy.default and not there:
            plain_args = (plain_args[0].clone(), *plain_args[1:])  # never the memory of the tensor that was copied
    elsewhere = device is not None and device.type not in ("cuda", "cpu")
    before = {id(tensor.elem): tensor for tensor in there}

    def pretended(value: Any) -> Any:
        if elsewhere or not _on_cpu(value) or any(value is tensor for tensor in here):
            return value
        return before.get(id(value)) if id(value) in before else Pretend(value)

    out, out_spec = tree_flatten(_computed(func, plain_args, plain_kwargs))
    return tree_unflatten([pretended(value) for value in out], out_spec)


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name if hasattr(func, "_schema") else ""
    if name in flash.NAMES:
        current().flash[str(args[1].dtype)] += 1
        return flash.emulated(name, args)
    if func is aten.mm.dtype:
        left, right, wanted = args
        if left.dtype != right.dtype or left.itemsize != 2 or wanted != torch.float32:
            raise flash.WrongInputError(f"a product of {left.dtype} and {right.dtype} has no output in {wanted}")
        return left.float() @ right.float()
    return func(*args, **kwargs)


def _on_cpu(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, Pretend) and value.device.type == "cpu"


def _count(func: Any, args: Any, kwargs: dict[str, Any], device: torch.device | None) -> None:
    """Count the wait that an operator means, if it does."""
    wait: Callable[[str], None] = current().wait
    if func in READ_BACK:
        wait(READ_BACK[func])
    elif func is aten._to_copy.default and device is not None and not isinstance(args[0], Pretend):
        if not (kwargs.get("non_blocking") and is_pinned(args[0])):
            wait("copy to the device")
    elif func is aten.copy_.default and isinstance(args[0], Pretend) != isinstance(args[1], Pretend):
        unhurried = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        to_device = isinstance(args[0], Pretend)
        if not (unhurried and is_pinned(args[1] if to_device else args[0])):
            wait("copy to the device" if to_device else "copy to the host")
    elif func in INDEXED and isinstance(args[0], Pretend):
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            wait("masked index")
        elif not all(isinstance(index, Pretend) for index in indices):
            wait("index on the CPU")


def _refuse_mixture(func: Any, args: Any, there: list[Pretend], here: list[Tensor]) -> None:
    """MixedDevicesError where the real operator would raise."""
    if not there or not here or func in (aten.copy_.default, aten._to_copy.default):
        return
    if func in INDEXED:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        if not isinstance(args[0], Pretend) and any(isinstance(index, Pretend) for index in indices):
            raise MixedDevicesError(f"{func} of a tensor on the CPU by an index on cuda:0: {place()}")
        here = [tensor for tensor in here if not any(tensor is index for index in indices)]
    # One number may stay on the CPU, where it becomes an argument of the kernel.
    if any(tensor.dim() or func in STRICT for tensor in here):
        both = [(tuple(tensor.shape), str(tensor.device)) for tensor in (*there, *here)]
        raise MixedDevicesError(f"{func} of tensors on cuda:0 and on the CPU, {both}: {place()}")


def asked(args: Any, kwargs: Any) -> tuple[torch.device | None, torch.dtype | None, bool, bool]:
    """Of the arguments of `Tensor.to`: device, format, whether it always copies, and whether it does not wait."""
    copy, non_blocking = (bool(kwargs.get(name)) for name in ("copy", "non_blocking"))
    like = args[0] if args and isinstance(args[0], Tensor) else kwargs.get("other")
    if isinstance(like, Tensor):
        return like.device, like.dtype, copy, non_blocking
    rest = {name: value for name, value in kwargs.items() if name != "copy"}
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **rest)
    return device, dtype, copy, non_blocking
