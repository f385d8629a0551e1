"""What a measurement was made on, in words that anybody may read: no host name, no path."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
PACKAGES = ("torch", "transformers", "peft", "accelerate", "lightning", "kto-lab")


def described() -> dict[str, Any]:
    """CPU, memory, GPU and versions. Imports TRL and torch."""
    import torch
    import trl

    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instruction_sets": [name for name in SETS if name in _flags()],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "load_average": round(os.getloadavg()[0], 2),
        # Not of the installed distribution: another may stand before it on the path.
        "versions": {"python": platform.python_version(), "trl": trl.__version__}
        | {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _lines(key: str) -> list[str]:
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return []
    return [line.partition(":")[2].strip() for line in file.read_text().splitlines() if line.startswith(key)]


def _cpu() -> str:
    return next(iter(_lines("model name")), platform.processor() or platform.machine())


def _flags() -> set[str]:
    return set(next(iter(_lines("flags")), "").split())
