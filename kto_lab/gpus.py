"""What shows of a machine's GPUs without torch, whose import takes seconds and settles which GPUs a process has.

Device files and the driver's own file say what is built in; environment variables say what a person or a scheduler has
given to this process; `nvidia-smi` names the GPUs.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
# Slurm's variables for the GPUs that a job or a step of it was given, each with its word for none beside "".
OF_SLURM = {"SLURM_JOB_GPUS": "", "SLURM_STEP_GPUS": "", "SLURM_GPUS_ON_NODE": "0"}
# Slurm's word, as a list of devices, for a job that was given none.
NO_FILES = "NoDevFiles"
# Of a graphics card that is more than a processor's own graphics, which reserves part of the main memory.
LEAST_VIDEO_MEMORY = 4 * 2**30
# Cells at a time where they need no GPU.
WITHOUT_GPUS = 2


@dataclass(frozen=True)
class Machine:
    """What shows of GPUs.

    Attributes:
        files: device files of GPUs, such as "/dev/nvidia0".
        given: variables that say which GPUs this process may use, such as "SLURM_JOB_GPUS=2".
        hidden: a person has hidden the GPUs from this process.
        in_slurm: this process belongs to a job on Slurm.
        driver: version of NVIDIA's driver; "" where it is unknown.
    """

    files: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    hidden: bool = False
    in_slurm: bool = False
    driver: str = ""

    @classmethod
    def here(cls, root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> "Machine":
        """This machine.

        Args:
            root: of its file system.
            environ: of this process.
        """
        visible = environ.get(VISIBLE)
        given = [name for name, none in OF_SLURM.items() if environ.get(name, "") not in ("", none)]
        given += [VISIBLE] if _listed(visible or "") else []
        return cls(
            files=tuple(f"/{path.relative_to(root)}" for path in _device_files(root)),
            given=tuple(f"{name}={environ[name]}" for name in given),
            hidden=visible is not None and not _listed(visible) and visible != NO_FILES,
            in_slurm="SLURM_JOB_ID" in environ,
            driver=_driver(root / "proc" / "driver" / "nvidia" / "version"),
        )

    @property
    def signs(self) -> tuple[str, ...]:
        """What says that there is a GPU for this process."""
        return self.files + self.given


def _device_files(root: Path) -> list[Path]:
    found = sorted((root / "dev").glob("nvidia[0-9]*"))
    sizes = [int(file.read_text()) for file in (root / "sys/class/drm").glob("card*/device/mem_info_vram_total")]
    if (root / "dev/kfd").exists() and (not sizes or max(sizes) >= LEAST_VIDEO_MEMORY):
        found.append(root / "dev/kfd")
    # Windows gives every GPU to its Linux, and with NVIDIA's a library for CUDA.
    if (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        found.append(root / "dev/dxg")
    return found


def _driver(file: Path) -> str:
    """The version in a line such as "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 ..."."""
    text = file.read_text() if file.exists() else ""
    found = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else ""


def _listed(value: str) -> tuple[str, ...]:
    """The devices of a list as CUDA reads it: up to the first that is none."""
    names = (name.strip() for name in value.split(","))
    return tuple(takewhile(lambda name: name not in ("", "-1", NO_FILES), names))


def visible(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """NVIDIA's GPUs that a process may use, each named as `CUDA_VISIBLE_DEVICES` takes it.

    Args:
        root: of the machine's file system.
        environ: of the process.
    """
    if VISIBLE in environ:
        return _listed(environ[VISIBLE])
    if named := identifiers(_nvidia_smi()):
        return named
    return tuple(str(index) for index, _ in enumerate((root / "dev").glob("nvidia[0-9]*")))


@cache
def _nvidia_smi() -> str:
    """What `nvidia-smi -L` lists; "" where there is no such program, or no driver."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def identifiers(listed: str) -> tuple[str, ...]:
    """The GPUs that `nvidia-smi -L` lists; of one that is divided (MIG), its instances.

    Args:
        listed: lines such as "GPU 0: NVIDIA A100 (UUID: GPU-5c89...)".
    """
    found: list[list[str]] = []
    for line in listed.splitlines():
        name = re.search(r"\(UUID: ([^)]+)\)", line)
        if name and line.startswith("GPU"):
            found.append([name[1]])
        elif name and found:
            found[-1].append(name[1])
    return tuple(name for whole, *instances in found for name in instances or [whole])


def identified(name: str) -> str:
    """The identifier of a GPU that `CUDA_VISIBLE_DEVICES` may name by its number or by how its identifier begins.

    Slurm may number the GPUs of every job from 0. A name stays as it is where `nvidia-smi` lists no such GPU, or GPUs
    are divided (MIG), which CUDA numbers in another way.
    """
    listed = identifiers(_nvidia_smi())
    if any(one.startswith("MIG") for one in listed):
        return name
    if name.isdigit():
        return listed[int(name)] if int(name) < len(listed) else name
    return next((one for one in listed if one.startswith(name)), name)


def gpus_per_node(accelerator: str, devices: int) -> int | None:
    """The GPUs that a job is to ask a scheduler for: one per process of a run that needs GPUs, else None.

    Args:
        accelerator: of the trainer.
        devices: of the trainer, per node.
    """
    return devices if accelerator == "gpu" else None


def cells_at_once(accelerator: str, devices: int) -> int:
    """How many cells this machine runs side by side: each with GPUs of its own where they use GPUs.

    Args:
        accelerator: of their trainer.
        devices: that each of them takes.
    """
    places = gpu_places(accelerator, devices)
    return WITHOUT_GPUS if places is None else places


def gpu_places(accelerator: str, devices: int) -> int | None:
    """How many cells have a place on this machine's GPUs, at least one; None where they use no GPU."""
    found = () if accelerator == "cpu" else visible()
    return max(len(found) // max(devices, 1), 1) if found else None
