"""Counts the bytes of tensors that are alive, of real tensors on any device and of fake ones alike."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """In a `with` block, the bytes of the storages that its operations have made and that are still held.

    What an operation needs inside its kernel is not seen, but for that of logsumexp: its input once more.

    Attributes:
        now: bytes that are alive.
        peak: the most that were at once, since the start or since it was last set to `now`.
    """

    def __init__(self, ignored: Iterable[Tensor] = ()) -> None:
        """Count from zero.

        Args:
            ignored: tensors that were there before and are not to be counted when they are written in place.
        """
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        for tensor in ignored:
            self._hold(tensor, count=False)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count what it made."""
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.logsumexp:
            self.peak = max(self.peak, self.now + args[0].numel() * args[0].element_size())
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._hold(leaf, count=True)
        return found

    def _hold(self, tensor: Tensor, *, count: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes() if count else 0
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._let_go, key)

    def _let_go(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
