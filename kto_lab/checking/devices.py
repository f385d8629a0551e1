"""Checks of the devices: what torch sees, and why it does not see a GPU that the machine has."""

from collections.abc import Sequence
from pathlib import Path

from kto_lab.checking.row import Row, judged

# Made by the drivers of NVIDIA's and AMD's GPUs.
DEVICE_FILES = ("nvidia[0-9]*", "kfd")


def devices(folder: Path = Path("/dev")) -> Row:
    """What `trainer=auto` takes: a GPU where the machine has one.

    Args:
        folder: where the system keeps its device files.
    """
    import torch

    files = sorted(path.name for pattern in DEVICE_FILES for path in folder.glob(pattern))
    limit = "a GPU" if files else "the CPU will do"
    mend = f"The machine has {', '.join(files)}, and torch cannot use it: {_reason()}." if files else ""
    seen = _gpus()
    said = ", ".join(seen) if seen else f"CPU, {torch.get_num_threads()} threads"
    return judged("trainer=auto takes", said, limit=limit, holds=bool(seen) or not files, mend=mend)


def _gpus() -> Sequence[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _reason() -> str:
    """Why CUDA does not work, in torch's words."""
    import torch

    try:
        torch.cuda.init()
    except Exception as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return "it gives no reason"
