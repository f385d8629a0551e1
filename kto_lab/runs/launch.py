"""A run of several processes: each in a process of its own, which ends with the run.

They are started as torchrun and srun start them: all with the same configuration, each told by variables of the
environment which one it is. Whoever starts them only watches, and so can start the next run afterwards; what a run
leaves in its processes (a group of them, ranks) goes with them. The first speaks for all. Where one fails the others,
which would wait for it, are ended; being told to stop is passed on to all, and they save what they are at.

Lightning's own launcher would not do: the process that starts the others takes part itself, and is killed without a
word five seconds after another has failed.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.files import write_json
from kto_lab.messages import explain
from kto_lab.narration import narrate_with
from kto_lab.stopping import Stopped, ending_with
from kto_lab.training.hardware import Hardware

LOOK_SECONDS = 0.1
# The others end with the first: it has written all that there is to write.
GRACE_SECONDS = 30.0
# The first may be saving the last good state when another has failed.
GRACE_TO_SAVE_SECONDS = 300.0
# torch's, where the processes of several nodes must know it beforehand.
PORT = 29500
# Lines that are shown of what a process said that was killed.
SHOWN = 20
# Begins where Python looks for modules as this process does.
BEGIN = (
    "import json, sys; order = json.load(sys.stdin); sys.path[:] = order['path']; "
    "from kto_lab.runs.launch import take_part; take_part(order)"
)


class RankError(RuntimeError):
    """An error that nobody foresaw in a process of a run; a note has its traceback there."""


class KilledError(LabError):
    """A process of a run was killed."""


@dataclass(frozen=True)
class Rank:
    """A process of a run that was started here.

    Attributes:
        number: among those of this machine.
        process: itself.
        log: what it says; the first says it to whoever started it.
        report: why it failed or stopped.
    """

    number: int
    process: "subprocess.Popen[str]"
    log: Path
    report: Path

    @property
    def code(self) -> int | None:
        """Its exit status; None while it runs."""
        return self.process.poll()

    def reported(self) -> dict[str, Any]:
        """Why it failed or stopped, if it could tell."""
        return dict(json.loads(self.report.read_text(encoding="utf-8"))) if self.report.exists() else {}


def is_launched() -> bool:
    """Whether somebody has started this process as one of a run: srun, torchrun, a cluster, or `launch`."""
    if "LOCAL_RANK" in os.environ:
        return True
    if "SLURM_NTASKS" not in os.environ:
        return False
    # Imported here, because it takes seconds and is seldom asked.
    from lightning.fabric.plugins.environments import SLURMEnvironment

    return SLURMEnvironment.detect()


def launch(task: str, cfg: DictConfig, hardware: Hardware) -> str:
    """Run a task in as many processes as the hardware has devices, and return when all have ended.

    Args:
        task: "module:function" of what each of them does with the configuration.
        cfg: the configuration.
        hardware: says how many there are on this machine and on others.

    Returns:
        Why other processes failed before the first one ended, for people; "" where none did.

    Raises:
        LabError: the first process failed so, or another, and the first could not go on.
        KilledError: a process was killed.
        RankError: as for LabError, of an error that nobody foresaw.
        Stopped: the run was told to stop, here or in one of its processes.
    """
    with tempfile.TemporaryDirectory(prefix="kto-lab-") as scratch:
        ranks: list[Rank] = []
        failed: list[Rank] = []
        try:
            try:
                for rank in _started(task, cfg, hardware, Path(scratch)):
                    ranks.append(rank)
                _watch(ranks, failed)
            except (Stopped, KeyboardInterrupt) as asked:
                _pass_on(ranks, asked.signum if isinstance(asked, Stopped) else signal.SIGINT)
                _watch(ranks, failed)
                if isinstance(asked, KeyboardInterrupt):
                    raise
                raise Stopped(asked.signum, _saved(ranks)) from None
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.wait()
        return _outcome(ranks, failed)


def _started(task: str, cfg: DictConfig, hardware: Hardware, scratch: Path) -> Iterator[Rank]:
    """Start the processes of this machine, one after another."""
    from lightning.fabric.plugins.environments.lightning import find_free_network_port

    node = int(os.environ.get("NODE_RANK", "0"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(PORT if hardware.num_nodes > 1 else find_free_network_port()),
        "OMP_NUM_THREADS": str(max(cores // hardware.devices, 1)),
        **os.environ,
        "NODE_RANK": str(node),
        "WORLD_SIZE": str(hardware.processes),
        "LOCAL_WORLD_SIZE": str(hardware.devices),
    }
    for number in range(hardware.devices):
        log, report = scratch / f"{number}.txt", scratch / f"{number}.json"
        own = {"RANK": str(node * hardware.devices + number), "LOCAL_RANK": str(number)}
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", BEGIN],
                env=shared | own,
                stdin=subprocess.PIPE,
                stdout=file if number else None,
                stderr=subprocess.STDOUT if number else None,
                text=True,
                # Ctrl-C reaches whoever started it, and is passed on once.
                start_new_session=True,
            )
        yield Rank(number, process, log, report)
        order = {
            "path": sys.path,
            "task": task,
            "cfg": OmegaConf.to_container(cfg, resolve=True),
            "parent": os.getpid(),
            "report": str(report),
        }
        assert process.stdin is not None
        # One that is no more says so by its status.
        with suppress(BrokenPipeError), process.stdin as pipe:
            json.dump(order, pipe)


def take_part(order: dict[str, Any]) -> None:
    """Be one of the processes: do what was ordered, and report why it failed or stopped."""
    module, _, name = order["task"].partition(":")
    report = Path(order["report"])
    narrate_with(console)
    try:
        with ending_with(order["parent"]):
            getattr(importlib.import_module(module), name)(OmegaConf.create(order["cfg"]))
    except Stopped as stopped:
        write_json(report, {"stopped": stopped.signum, "saved": stopped.saved})
        raise
    except Exception as error:
        told = {"type": type(error).__name__, "text": str(error), "traceback": traceback.format_exc()}
        write_json(report, {"message": explain(error), **told})
        sys.exit(1)


def _watch(ranks: Sequence[Rank], failed: list[Rank]) -> None:
    """Wait until all have ended; list those that failed, in the order in which they did, as long as the first lives."""
    deadline = None
    while ranks:
        living = [rank for rank in ranks if rank.code is None]
        if ranks[0] in living or ranks[0].code:
            failed += [rank for rank in ranks if rank.code and rank not in failed]
        if not living:
            return
        now = time.monotonic()
        if ranks[0] not in living:
            deadline = min(deadline or now + GRACE_SECONDS, now + GRACE_SECONDS)
        elif failed and deadline is None:
            deadline = now + GRACE_TO_SAVE_SECONDS
        if deadline is not None and now > deadline:
            for rank in living:
                rank.process.kill()
                rank.process.wait()
            return
        time.sleep(LOOK_SECONDS)


def _pass_on(ranks: Sequence[Rank], signum: int) -> None:
    for rank in ranks:
        if rank.code is None:
            rank.process.send_signal(signum)


def _saved(ranks: Sequence[Rank]) -> str:
    """What was saved of a run that was stopped: what the first says of it, or another."""
    return next(filter(None, (rank.reported().get("saved", "") for rank in ranks)), "")


def _outcome(ranks: Sequence[Rank], failed: Sequence[Rank]) -> str:
    for rank in ranks:
        if (signum := rank.reported().get("stopped")) is not None:
            raise Stopped(signum, _saved(ranks))
    if not ranks[0].code:
        others = [f"Process {rank.number + 1} of {len(ranks)}: {_why(rank)}" for rank in failed]
        return "\n".join(others)
    # What a person can mend is the cause, and not that others noticed.
    cause = next((rank for rank in failed if rank.reported().get("message")), (*failed, ranks[0])[0])
    told = cause.reported()
    if not told:
        raise KilledError(f"Process {cause.number + 1} of {len(ranks)} of the run: {_why(cause)}")
    if told["message"] is not None:
        raise LabError(told["message"])
    error = RankError(f"{told['type']}: {told['text']}")
    error.add_note(f"In process {cause.number + 1} of {len(ranks)}:\n{told['traceback']}")
    raise error


def _why(rank: Rank) -> str:
    """Why a process failed, for people."""
    if told := rank.reported():
        return told["message"] or f"{told['type']}: {told['text']}"
    code = rank.code or 0
    by = f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"
    memory = ", as a rule for want of memory" if -code == signal.SIGKILL else ""
    last = rank.log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
    return f"{by}{memory}." + ("\nIt said last:\n" + "\n".join(last) if last else "")
