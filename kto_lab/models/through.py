"""Running a model whether it is whole or in shards; `training/sharding.py` says what a policy in shards asks for."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from torch import nn

Found = TypeVar("Found")

# Methods of a policy in shards: to gather what is outside of its blocks around a call, and see `together`.
GATHERED = "run_gathered"
TOGETHER = "run_together"


def in_shards(model: nn.Module) -> bool:
    """Whether each process has a shard of the model."""
    # Not by `getattr`: peft hands attributes of the model inside on.
    return GATHERED in vars(model)


def through(model: nn.Module, run: Callable[[], Found]) -> Found:
    """What `run` returns, which calls the backbone and the head of a model; not for calls of the model itself."""
    gathered = vars(model).get(GATHERED)
    found: Found = run() if gathered is None else gathered(run)
    return found


def together(model: nn.Module) -> AbstractContextManager[None]:
    """A block without gradient in which each process that has a shard of the model runs it as often as it needs to.

    All of them must come to it, and they leave it together; so they may not wait for one another inside of it.
    """
    begin: Callable[[], AbstractContextManager[None]] = vars(model).get(TOGETHER, nullcontext)
    return begin()
