"""Running a model by its parts, whether it is whole or in shards."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

Found = TypeVar("Found")

# The method of a policy in shards that gathers what is outside of its blocks around a call; see `training/sharding.py`.
GATHERED = "run_gathered"


def through(model: nn.Module, run: Callable[[], Found]) -> Found:
    """What `run` returns, which calls the backbone and the head of a model; not for calls of the model itself."""
    # Not by `getattr`: peft hands attributes of the model inside on.
    gathered = vars(model).get(GATHERED)
    found: Found = run() if gathered is None else gathered(run)
    return found
