"""GPUs of its own for each job that joblib runs in a process of this machine.

Every such process would otherwise compute on the machine's first GPU. A claim is a lock on a file, one per GPU, which
the system lets go of when a process ends, however it ended. It lasts for one job, so that sweeps side by side share the
GPUs.
"""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.files import cache_dir
from kto_lab.gpus import VISIBLE, identified, visible

JOBLIB = "JoblibLauncher"
FOLDER = "gpus"
LOOK_SECONDS = 1.0

# The GPUs of this process: CUDA reads which ones it may use once, with its first use.
_own: tuple[str, ...] = ()


@contextmanager
def own_gpus(accelerator: str, devices: int) -> Iterator[None]:
    """Run a block with GPUs that no other process has claimed, once there are some, where it uses GPUs.

    `CUDA_VISIBLE_DEVICES` names them from then on, for this process and those that it starts.

    Args:
        accelerator: of the trainer.
        devices: how many GPUs the trainer takes.

    Raises:
        LabError: this process has fewer GPUs from an earlier job, or the cache folder takes no locks.
    """
    global _own
    if _own and devices > len(_own):
        raise LabError(
            f"trainer.devices is {devices}, but an earlier job of this process took {len(_own)}, and CUDA does not "
            "change that. Run jobs with different trainer.devices by different commands, or by kto-lab sweep."
        )
    names = () if accelerator == "cpu" else _own[:devices] or visible()
    # Of too few GPUs the trainer speaks.
    if len(names) < max(devices, 1):
        yield
        return
    claims = _wait_for(names, devices)
    _own = _own or tuple(claims)
    os.environ[VISIBLE] = ",".join(_own)
    try:
        yield
    finally:
        _empty_cache()
        _let_go(claims.values())


def _wait_for(names: Sequence[str], count: int) -> dict[str, int]:
    """Claims on so many of the GPUs, as open files by name, as soon as so many are free."""
    folder = cache_dir() / FOLDER / socket.gethostname()
    told = False
    while not (claims := _claim(folder, names, count)):
        if not told:
            narration.say(f"    Waiting for {count} of the GPUs {', '.join(names)}: other processes have claimed them")
            told = True
        time.sleep(LOOK_SECONDS)
    return claims


def _claim(folder: Path, names: Sequence[str], count: int) -> dict[str, int]:
    """Claims on the first GPUs that are free; none where there are too few: a part would keep others waiting."""
    claims: dict[str, int] = {}
    for name in names:
        try:
            handle = _locked(folder / identified(name).replace("/", "_"))
        except OSError as error:
            _let_go(claims.values())
            raise LabError(
                f"Could not lock a file in {folder}, by which processes share the GPUs: {error.strerror}. Set "
                "KTO_LAB_CACHE to a folder of your own on a local disk."
            ) from error
        if handle is None:
            continue
        claims[name] = handle
        if len(claims) == count:
            return claims
    _let_go(claims.values())
    return {}


def _locked(path: Path) -> int | None:
    """A file, made where there is none, opened and locked; None where another process has locked it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        raise
    return handle


def _let_go(handles: Iterable[int]) -> None:
    for handle in handles:
        os.close(handle)


def _empty_cache() -> None:
    """Give back the memory that torch keeps of a GPU which another process may claim next."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.cuda.empty_cache()


def starts_processes(launcher: DictConfig) -> bool:
    """Whether a launcher starts processes on this machine, and hands each one job after another."""
    return str(launcher._target_).endswith(f".{JOBLIB}")


def end_idle_processes() -> None:
    """End joblib's processes, which wait for further jobs: they hold memory, and their GPUs are settled for good."""
    with suppress(ImportError):
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)
