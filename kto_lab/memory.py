"""How much memory a process has held, and what is said to a person where there is no more."""

import errno
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kto_lab.errors import LabError

# How allocators say it: CUDA's, torch's on the CPU (two ways), cuBLAS's.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
# What they were asked for, as torch and numpy write it.
ASKED = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
# Of a command that says no more of what it was at.
ANYWHERE = "Lower the number of tokens or rows that are run at once, or use a smaller model or a larger machine."


class OutOfMemoryError(LabError):
    """There was not enough memory; the message says at what, how much there was, and which key lowers the need."""


@contextmanager
def within_memory(doing: str, mend: str) -> Iterator[None]:
    """Say where memory ran out and what to do, if it does in a block (or in a function, as its decorator).

    Of nested blocks the innermost speaks.

    Args:
        doing: what the block does, such as "greedy answers".
        mend: a sentence on which keys to lower.

    Raises:
        OutOfMemoryError: there was not enough.
    """
    try:
        yield
    except Exception as error:
        if (cause := shortage_behind(error)) is None:
            raise
        raise OutOfMemoryError(explanation(cause, doing, mend)) from error


def shortage_behind(error: BaseException) -> BaseException | None:
    """The exception in a chain of causes that says that memory ran out, which nothing has explained yet; or None.

    What reads a file, say, may have called it a damaged one.
    """
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if any(isinstance(one, OutOfMemoryError) for one in chain):
        return None
    return next(filter(is_out_of_memory, chain), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception itself says that memory ran out, on the CPU or a GPU."""
    if isinstance(error, LabError):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def explanation(error: BaseException, doing: str, mend: str = ANYWHERE) -> str:
    """The message for a person behind an error that says that memory ran out; see `within_memory`."""
    found = ASKED.search(str(error))
    asked = f" {readable(_bytes(found[1], found[2]))} more were asked for;" if found else ""
    return f"Out of memory at {doing}:{asked} {_state(error)}. {mend}"


def peak_of_process() -> int:
    """Bytes of the most memory that this process has held since it began."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak_of_devices() -> None:
    """Have the peak of every CUDA device count from now on: a process may make one run after another."""
    import torch

    # Before that no device has held anything, and torch has nothing to reset.
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def _state(error: BaseException) -> str:
    """How much memory there is and was, on the device that had too little."""
    torch = sys.modules.get("torch")
    on_cpu = isinstance(error, MemoryError | OSError) or "DefaultCPUAllocator" in str(error)
    if torch is not None and not on_cpu and torch.cuda.is_available():
        # A device may be past answering.
        with suppress(RuntimeError):
            free, total = torch.cuda.mem_get_info()
            held = torch.cuda.max_memory_allocated()
            device = f"cuda:{torch.cuda.current_device()}"
            return (
                f"{device} has {readable(free)} of {readable(total)} free, and this run has held up to "
                f"{readable(held)} of it"
            )
    # Imported here: this module is a foundation, and most commands end well.
    import psutil

    memory = psutil.virtual_memory()
    return (
        f"this machine has {readable(memory.available)} of {readable(memory.total)} free, and this process has held "
        f"up to {readable(peak_of_process())}"
    )


def _bytes(number: str, unit: str) -> float:
    places = {name.lower(): place for place, name in enumerate(UNITS)}
    return float(number) * 1024 ** places[unit.lower()]


def readable(size: float) -> str:
    """A number of bytes in three digits and the largest unit that leaves at least one: 12.3 GiB."""
    place = 0
    while size >= 1024 and place < len(UNITS) - 1:
        size, place = size / 1024, place + 1
    return f"{size:.3g} {UNITS[place]}"
