"""Which process is which, beyond its number: what leases and scratch files say of their owner."""

import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

# Linux tells with these which start of the machine, and which container, a process number belongs to.
BOOT = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")
# The variables by which launchers (torchrun and Lightning, then Slurm) tell a process which one it is.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


@cache
def machine() -> str:
    """Where a process number means the same: a machine since it was started, and a container there."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(BOOT.read_text().strip())
        parts.append(str(NAMESPACE.readlink()))
    return " ".join(parts)


def started(pid: int) -> float:
    """When a process of this machine started, on a clock that nobody sets; -1 where there is no such process."""
    try:
        # Ticks since the machine started, the twenty-second field; a name, the second, may hold spaces. What psutil has
        # is made of the time of day, which may be set back.
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        import psutil

        return psutil.Process(pid).create_time() if not BOOT.exists() and psutil.pid_exists(pid) else -1.0


def is_first() -> bool:
    """Whether this process is the only one of its run, or the one that speaks for all of them."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)
