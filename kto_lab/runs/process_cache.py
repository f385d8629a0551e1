"""What a process keeps from run to run, so that the cells of a sweep pay for it once.

The table of examples, the base weights, token ids, and what the base policy does on the held-out prompts are the same
in most cells of a study. Each is kept under a hash of everything that it is made of, so that a run with it is the run
without it, bit for bit.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.utils import instantiate
from omegaconf import DictConfig

from kto_lab.runs.identity import node_key

if TYPE_CHECKING:
    from datasets import Dataset

    from kto_lab.models.load import Loaded

Kept = TypeVar("Kept")


class Node:
    """A node of the configuration that is made when its turn comes, because that takes long: a table, a model."""

    def __init__(self, config: DictConfig) -> None:
        """Nothing is read or made yet."""
        self.config = config

    @cached_property
    def key(self) -> str:
        """A hash of the node's values and of the local files that it names, as they are when it is first asked for."""
        return node_key(self.config)

    def make(self) -> Any:
        """What the node names."""
        return instantiate(self.config)


class ProcessCache:
    """Keeps the last of each kind; a single run has one that keeps nothing."""

    def __init__(self, *, keeps: bool) -> None:
        """`keeps`: whether there will be another run in this process."""
        self.keeps = keeps
        self._kept: dict[str, dict[str, Any]] = {}

    def get(self, kind: str, key: str, make: Callable[[], Kept], *, most: int = 1) -> Kept:
        """What was kept under a key, or else is made now.

        Args:
            kind: of thing.
            key: hash of all that it is made of.
            make: makes it.
            most: how many of its kind are kept; the oldest leaves first.
        """
        if not self.keeps:
            return make()
        kept = self._kept.setdefault(kind, {})
        if key not in kept:
            while len(kept) >= most:
                del kept[next(iter(kept))]
            kept[key] = make()
        return kept[key]

    def table(self, feedback: Node) -> "Dataset":
        """The table of examples of a `feedback` node."""
        return self.get("table", feedback.key, feedback.make)

    def loaded(self, model: Node, *, kind: str = "model", written: bool = False) -> "Loaded":
        """The model of a `model` node, for the caller to change; what is kept stays as it was loaded, on the CPU.

        The last of each `kind` is kept: a policy and a reference do not drive each other out.

        Args:
            model: the node.
            kind: of what is kept.
            written: the caller writes into the weights where they are, so they are copied; else they share the memory
                of what is kept, until they go to another device or get other values.
        """
        loaded = self.get(kind, model.key, model.make)
        if not self.keeps:
            return loaded
        # Here, since a sweep's first words need no torch.
        from kto_lab.models.sharing import sharing

        return replace(loaded, model=copy.deepcopy(loaded.model) if written else sharing(loaded.model))


NO_CACHE = ProcessCache(keeps=False)
