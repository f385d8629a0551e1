"""What a block of pretended CUDA did that a real one would pay for: where the host waited for the device."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor

LAB = f"{Path(__file__).resolve().parents[2] / 'kto_lab'}/"
TORCH = f"{Path(torch.__file__).parent}/"
PACKAGES = "site-packages/"


class Wait(NamedTuple):
    """A point at which the host waits until the device has done all that it was given.

    Attributes:
        kind: what waits: "item", "tolist", "bool", "nonzero", "copy to the device", and so on.
        place: the innermost lines of the lab and of a library (not torch itself) that led to it.
    """

    kind: str
    place: str


@dataclass
class Ledger:
    """Counts of waits, and of what the fast kernels were given.

    Attributes:
        waits: how often each happened.
        flash: calls of flash attention over packed rows, by number format.
        marks: the sum of waits at each call of `mark`.
        pinned: tensors in pinned memory, by the address of their storage.
    """

    waits: Counter[Wait] = field(default_factory=Counter)
    flash: Counter[str] = field(default_factory=Counter)
    marks: list[Counter[Wait]] = field(default_factory=list)
    pinned: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def wait(self, kind: str) -> None:
        """Count one wait at the place that is being executed."""
        self.waits[Wait(kind, place())] += 1

    def mark(self) -> None:
        """Remember the counts of this moment, for `between_marks`."""
        self.marks.append(Counter(self.waits))

    def between_marks(self) -> list[Counter[Wait]]:
        """The waits between each two marks that follow one another."""
        return [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]


_open: list[Ledger] = []


@contextmanager
def counted(ledger: Ledger) -> Iterator[None]:
    """Count into this ledger for a block."""
    _open.append(ledger)
    try:
        yield
    finally:
        _open.remove(ledger)


def current() -> Ledger:
    """The ledger of the block, or one that nobody reads."""
    return _open[-1] if _open else Ledger()


def place() -> str:
    """The innermost line of the lab, and before it that of another library which it called, if any."""
    frame: FrameType | None = sys._getframe(1)
    library = ""
    while frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if file.startswith(LAB):
            own = f"{file.removeprefix(LAB)}:{line}"
            return f"{library} from {own}" if library else own
        if not library and PACKAGES in file and not file.startswith(TORCH):
            library = f"{file.partition(PACKAGES)[2]}:{line}"
        frame = frame.f_back
    return library or "elsewhere"


def said(waits: Counter[Wait]) -> str:
    """A line for each wait, the most frequent first."""
    return "\n".join(f"{count:5d} {wait.kind:30s} {wait.place}" for wait, count in waits.most_common())
