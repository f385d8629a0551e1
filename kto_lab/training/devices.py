"""Whether a run computes on a GPU: what the machine shows, what torch says, and one decision from both.

A GPU that is there and cannot be used stops a run; it would otherwise train on the CPU for days, and nobody would know.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Literal

from kto_lab.gpus import VISIBLE, Machine

# The first driver that runs programs built for a major version of CUDA.
FIRST_DRIVERS = {11: 450, 12: 525, 13: 580}
# Compute capability from which on a GPU has units for products in bfloat16.
BFLOAT16 = 8
ON_PURPOSE = "To compute on the CPU on purpose, use trainer=cpu."


@dataclass(frozen=True)
class Answer:
    """What torch says of GPUs.

    Attributes:
        build: what it was built for, such as "CUDA 13.0" or "ROCm 6.4"; "" for the CPU alone.
        gpus: that it finds, whether or not it can use them.
        reason: why it can use none, in its own words where it has some; "" where it can.
        bfloat16: whether the GPUs have units for products in bfloat16.
        mps: whether it could use Apple's GPU.
    """

    build: str = ""
    gpus: int = 0
    reason: str = ""
    bfloat16: bool = True
    mps: bool = False


@dataclass(frozen=True)
class Choice:
    """Where a run computes.

    Attributes:
        device: "cuda" or "cpu".
        remark: what a person should know of it, or "".
        refusal: why nothing is computed, and what to do; "" where nothing is wrong.
    """

    device: Literal["cuda", "cpu"]
    remark: str = ""
    refusal: str = ""


def choose(accelerator: str, machine: Machine, answer: Answer) -> Choice:
    """Where a run computes.

    Args:
        accelerator: "auto" (a GPU where there is one), "cpu" or "gpu".
        machine: what shows of its GPUs.
        answer: torch's.
    """
    if accelerator == "cpu":
        return Choice("cpu")
    if not answer.reason:
        return Choice("cuda")
    if accelerator == "gpu":
        said = f"trainer.accelerator is 'gpu', but no GPU can be used: {answer.reason}."
        return Choice("cpu", refusal=" ".join([said, *_mends(machine, answer)]))
    if machine.hidden:
        return Choice("cpu", f"{VISIBLE} hides the GPUs" if machine.files else "")
    if machine.signs or answer.gpus:
        signs = ", ".join(machine.signs) or f"torch finds {answer.gpus}"
        said = f"There is a GPU ({signs}), but it cannot be used: {answer.reason}."
        return Choice("cpu", refusal=" ".join([said, *_mends(machine, answer)]))
    if machine.in_slurm:
        return Choice("cpu", "the Slurm job has no GPU")
    return Choice("cpu", "Apple's GPU is not used: the lab computes on CPUs and on CUDA" if answer.mps else "")


def _mends(machine: Machine, answer: Answer) -> list[str]:
    """What a person can do, in sentences."""
    found = []
    if machine.hidden:
        found.append(f"{VISIBLE} is set and names none: unset it.")
    elif machine.in_slurm and not machine.given:
        found.append("The Slurm job was given none: ask for GPUs with hydra.launcher.gpus_per_node or --gpus-per-node.")
    if not answer.build:
        found.append("Install a build of torch for CUDA; see docs/installation.md.")
    elif machine.driver and (needed := _first_driver(answer.build)):
        found.append(
            f"The driver is {machine.driver}, and a torch for {answer.build} needs {needed} or newer"
            + (": update it, or install a torch for an older CUDA" if _older(machine.driver, needed) else "")
            + "; see docs/installation.md."
        )
    return [*found, ON_PURPOSE]


def _first_driver(build: str) -> int | None:
    name, _, number = build.partition(" ")
    return FIRST_DRIVERS.get(int(number.partition(".")[0])) if name == "CUDA" else None


def _older(driver: str, needed: int) -> bool:
    return int(driver.partition(".")[0]) < needed


def ask(devices: int = 1) -> Answer:
    """Ask torch. Of a GPU that it finds it is asked to use it: finding one needs less of the driver.

    Args:
        devices: how many GPUs, from the first on, are to be used.
    """
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    build = f"ROCm {torch.version.hip}" if torch.version.hip else build
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gpus = torch.cuda.device_count()
        reason = _refused()
    known = Answer(build=build, gpus=gpus, mps=torch.backends.mps.is_available())
    if reason is not None:
        said = reason or "".join(str(warning.message) for warning in warned[:1]) or "torch gives no reason"
        return replace(known, reason=said.strip().splitlines()[0].rstrip("."))
    used = range(min(devices, gpus))
    capabilities = [torch.cuda.get_device_capability(index) for index in used]
    runnable = [_parsed(name) for name in torch.cuda.get_arch_list()]
    for index, capability in zip(used, capabilities, strict=True):
        if not _runs(capability, [one for one in runnable if one is not None]):
            name, (major, minor) = torch.cuda.get_device_name(index), capability
            reason = f"{name} has compute capability {major}.{minor}, and this torch has no code for it"
            return replace(known, reason=reason)
    bfloat16 = torch.version.hip is not None or all(major >= BFLOAT16 for major, _ in capabilities)
    return replace(known, bfloat16=bfloat16)


def _refused() -> str | None:
    """Why CUDA does not work, in torch's words, "" where it has none; None where it works."""
    import torch

    try:
        available = torch.cuda.is_available()
        torch.cuda.init()
    except Exception as error:
        return str(error)
    return None if available else ""


def _parsed(architecture: str) -> tuple[str, int, int] | None:
    """("sm", 9, 0) of "sm_90" or "sm_90a"; None of another maker's architecture."""
    kind, _, number = architecture.partition("_")
    number = number.rstrip("af")
    return (kind, int(number[:-1]), int(number[-1])) if kind in ("sm", "compute") and number.isdigit() else None


def _runs(capability: tuple[int, int], built: list[tuple[str, int, int]]) -> bool:
    """Whether a GPU runs code that was built for some architectures.

    Machine code ("sm") runs on GPUs of its major version with no lower minor one; intermediate code ("compute") is
    compiled for any later GPU. Nothing known means that nothing is wrong.
    """
    return not built or any(
        (kind == "compute" and (major, minor) <= capability)
        or (major == capability[0] and minor <= capability[1] and kind == "sm")
        for kind, major, minor in built
    )
