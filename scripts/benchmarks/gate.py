"""The contestants' side of the pipe: wait for "take one step", and answer with its seconds.

Libraries print; so the answers go to what was standard output when the process began, and everything else to standard
error.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STEP, FORGET = "step", "forget"


class Gate:
    """Takes the steps of a contestant one by one, when it is told to."""

    def __init__(self) -> None:
        """Keep standard output for the answers."""
        self.channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.begun = time.perf_counter()
        self.counter: Counter | None = None

    def watch(self, model: nn.Module, *, pad_id: int, feeds_end: bool) -> None:
        """Count the token positions that go through a model; see `Counter`."""
        self.counter = self.counter or Counter(pad_id, feeds_end)
        self.counter.attach(model)

    def ready(self, **facts: Any) -> None:
        """Say that the first step can be taken, and wait for it."""
        self._say(facts)

    def done(self, **facts: Any) -> None:
        """Say what the step took, and wait for the next."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        facts["seconds"] = time.perf_counter() - self.begun
        if self.counter is not None:
            facts |= self.counter.read()
        self._say(facts)

    def _say(self, facts: dict[str, Any]) -> None:
        facts["peak"] = peak_memory()
        if torch.cuda.is_available():
            facts["peak_cuda"] = torch.cuda.max_memory_allocated()
        self.channel.write(json.dumps(facts) + "\n")
        self.channel.flush()
        while (word := sys.stdin.readline().strip()) == FORGET:
            forget_peak()
        if word != STEP:
            # Not by an exception: libraries would write checkpoints on their way out.
            os._exit(0)
        self.begun = time.perf_counter()


class Counter:
    """Counts token positions by the ids that reach a model's embeddings: in every pass, with gradient or without."""

    def __init__(self, pad_id: int, feeds_end: bool) -> None:
        """Count.

        Args:
            pad_id: rows are padded with it, on the right.
            feeds_end: each row ends with a real token that may have the same id.
        """
        self.pad_id, self.feeds_end = pad_id, feeds_end
        self.positions = self.padding = 0

    def attach(self, model: nn.Module) -> None:
        """Count what this model is fed."""
        embeddings = model.get_input_embeddings()  # type: ignore[operator]
        assert isinstance(embeddings, nn.Module)
        embeddings.register_forward_pre_hook(self._count)

    def read(self) -> dict[str, int]:
        """The counts since the last reading."""
        found = {"positions": self.positions, "padding": self.padding}
        self.positions = self.padding = 0
        return found

    def _count(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        ids = arguments[0]
        self.positions += ids.numel()
        if ids.ndim == 2:
            trailing = (ids == self.pad_id).flip(1).cumprod(1).sum(1)
            self.padding += int((trailing - int(self.feeds_end)).clamp(min=0).sum())


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Begin the peak anew, where the system can; what was only tried in the warm-up does not count."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
