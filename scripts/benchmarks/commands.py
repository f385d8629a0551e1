"""Whole commands as a person would run them: their wall time and their peak of memory."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import ENTRY, environment

ROOT = ENTRY.parent.parent
KTO_LAB = (sys.executable, "-m", "kto_lab.cli")
LOOK_SECONDS = 0.05


class CommandError(RuntimeError):
    """A command failed."""


@dataclass(frozen=True)
class Ran:
    """A command that ended well.

    Attributes:
        seconds: wall time.
        cpu_seconds: of the process and what it waited for, user and system.
        peak_memory: largest resident memory, bytes; looked up twenty times per second.
        said: what it printed.
    """

    seconds: float
    cpu_seconds: float
    peak_memory: int
    said: str


def run(words: Sequence[str], log: Path, *, threads: int, cwd: Path | None = None) -> Ran:
    """Run a command and watch it.

    Raises:
        CommandError: it failed; the message holds the end of what it printed.
    """
    own = environment(threads) | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_paths()])}
    begun, before = time.perf_counter(), os.times()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(list(words), stdout=file, stderr=subprocess.STDOUT, env=own, cwd=cwd)
        peak = 0
        while process.poll() is None:
            # Not what the system says of a child at its end: that begins at the size of its parent.
            peak = max(peak, _peak(process.pid))
            time.sleep(LOOK_SECONDS)
    seconds, after = time.perf_counter() - begun, os.times()
    said = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        raise CommandError(f"{' '.join(words[:6])} ended with {process.returncode}:\n{said[-3000:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Ran(seconds, used, peak, said)


def _paths() -> list[str]:
    """What stands before the installed packages already, such as another TRL."""
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _peak(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
