"""What a run stood on: package versions, code version and hardware, with nothing about the person or the site."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import kto_lab
from kto_lab.memory import peak_of_process

PACKAGES = (
    "torch",
    "lightning",
    "transformers",
    "datasets",
    "tokenizers",
    "peft",
    "hydra-core",
    "omegaconf",
    "lm_eval",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Versions, commit and hardware. No environment variable, user name or host name is read.

    Returns:
        `python`, `packages` (name to version, null where it is not installed), `git` (commit and whether the checkout
        differs from it; null outside a checkout), `platform`, `cpu` (model, cores, threads torch uses, memory in
        bytes) and `gpus` (names).
    """
    # Imported here because it takes seconds, and reading records needs none of it.
    import torch

    return {
        "python": platform.python_version(),
        "packages": {"kto-lab": kto_lab.__version__} | {name: _version(name) for name in PACKAGES},
        "git": git_state(Path(kto_lab.__file__).resolve().parent.parent),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": {
            "model": _cpu_model(),
            "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def peak_memory() -> dict[str, int | None]:
    """Peak memory in bytes: `process` (resident), and `cuda` (allocated on all devices; null without one).

    The first counts from the start of the process, the second from the last `forget_peak_of_devices`.
    """
    import torch

    devices = range(torch.cuda.device_count())
    return {
        "process": peak_of_process(),
        "cuda": sum(map(torch.cuda.max_memory_allocated, devices)) if devices else None,
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit (null before the first one) and dirty flag of the checkout whose top is `folder`; None if it is none.

    A folder inside another project's checkout (a virtual environment there, for one) does not count as a checkout.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return None
    return {
        "commit": _git(folder, "rev-parse", "--verify", "--quiet", "HEAD"),
        "dirty": bool(_git(folder, "status", "--porcelain")),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
