"""The processes of a run among themselves: who has which share of a piece of work, and how all of it comes together.

Lightning divides the steps of a training. What a run does before and after it (answers, log-probabilities, lm-eval) is
divided here, by way of a group of its own: it waits for the slowest process without a time limit, and notices one that
has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a piece of work.

    Every process must call the methods that talk (`joined`, `total`, `told`), in the same order.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        group: by which they talk, of CPU tensors; None for one process.
    """

    rank: int = 0
    size: int = 1
    group: "ProcessGroup | None" = None

    @property
    def first(self) -> bool:
        """Whether this process writes for all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's share of some items: in turn, so that a sorted list is dealt evenly."""
        return list(items[self.rank :: self.size])

    def joined(self, own: Sequence[T]) -> list[T]:
        """What all processes have made of their shares, in the order of what was shared; on every process."""
        if self.group is None:
            return list(own)
        import torch.distributed

        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, list(own), group=self.group)
        return [parts[place % self.size][place // self.size] for place in range(sum(map(len, parts)))]

    def total(self, values: "Tensor") -> "Tensor":
        """The sum over processes of a tensor on the CPU, on every process. A sum with zeros alone is exact."""
        if self.group is not None:
            import torch.distributed

            torch.distributed.all_reduce(values, group=self.group)
        return values

    def told(self, value: T) -> T:
        """What the first process says; the value of the others is ignored."""
        if self.group is None:
            return value
        import torch.distributed

        said = [value]
        torch.distributed.broadcast_object_list(said, src=0, group=self.group)
        return said[0]


# One process, which does everything itself.
ALONE = Ranks()
