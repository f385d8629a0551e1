"""One owner at a time for a run folder, also across machines that share a file system, and without a daemon.

The owner keeps a lease file in the folder and counts in it while it lives. Whoever else wants the folder watches that
count by its own clock: where it has not moved for a while, the owner is dead, and its lease may be taken over. So no
two clocks are ever compared, and a clock that is set back does no harm. On one machine a dead process is known at once,
and so is, on any machine, what an earlier start of one's own Slurm job has left.

Files are made by exclusive creation and by hard links, which a network file system does for one caller alone.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.files import is_name
from kto_lab.processes import machine, started
from kto_lab.runs.job import Job

LEASE = "lease.json"
BEAT_SECONDS = 5.0
# So many beats missed, and an owner elsewhere is taken for dead.
BEATS_MISSED = 12
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Owner:
    """Who holds a lease.

    Attributes:
        identity: of this holding, never used twice.
        host: the machine, since it was started, and the container on it where process numbers are its own.
        pid: of the process.
        started: when the process started; tells it from a later one of the same number.
        beat: counts up while the owner lives.
        job: the Slurm job that the process is in; "" outside of one.
        start: how often that job was requeued before.
    """

    identity: str
    host: str
    pid: int
    started: float
    beat: int
    job: str = ""
    start: int = 0

    @classmethod
    def me(cls) -> "Owner":
        """This process, about to hold something."""
        job = Job.current()
        return cls(
            identity=uuid.uuid4().hex,
            host=machine(),
            pid=os.getpid(),
            started=started(os.getpid()),
            beat=0,
            job=job.identity if job else "",
            start=job.start if job else 0,
        )

    def is_dead_here(self) -> bool:
        """Whether it was a process of this machine that no longer is."""
        return self.host == machine() and started(self.pid) != self.started

    def is_alive_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == machine() and not self.is_dead_here()

    def __str__(self) -> str:
        """For a person."""
        job = f", Slurm job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host.partition(' ')[0]}{job}"

    def is_requeued_as(self, later: "Owner") -> bool:
        """Whether the later one is of the same Slurm job: that starts again only when it has ended everywhere."""
        return self.job != "" and self.job == later.job and self.start < later.start


class Watch:
    """What one observer has seen of the leases of others; it must live as long as the observer waits."""

    def __init__(self, patience: float = BEAT_SECONDS * BEATS_MISSED) -> None:
        """An owner that does not count for `patience` seconds is dead."""
        self.patience = patience
        self._seen: dict[Path, tuple[str, float]] = {}

    def is_stale(self, lease: Path, content: str) -> bool:
        """Whether the lease's content has stood still for too long, by this observer's own clock."""
        now = time.monotonic()
        if lease not in self._seen or self._seen[lease][0] != content:
            self._seen[lease] = (content, now)
        return now - self._seen[lease][1] >= self.patience


@contextmanager
def held(folder: Path, *, beat_seconds: float = BEAT_SECONDS) -> Iterator[bool]:
    """Hold a folder's lease for a block, if it is free or its owner is dead.

    Waits until that is known: a living owner elsewhere counts after some seconds, a dead one not for a minute.

    Args:
        folder: made if it is not there, and removed in the end where nothing was put into it.
        beat_seconds: how often a sign of life is given.

    Yields:
        Whether the lease is held. Where it is not, another is at work.

    Raises:
        LabError: the folder cannot be written to.
    """
    mine = Owner.me()
    lease, made = folder / LEASE, not folder.exists()
    try:
        handle = _claim(lease, mine)
    except OSError as error:
        raise LabError(
            f"Could not write in {folder}: {error.strerror or error}. Free some space or choose another run_dir."
        ) from error
    if handle is None:
        yield False
        return
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(handle, mine, stop, beat_seconds), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        stop.set()
        beating.join()
        os.close(handle)
        if (owner := read_owner(lease)) is not None and owner.identity == mine.identity:
            lease.unlink()
            if made:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


def read_owner(lease: Path) -> Owner | None:
    """Who holds a lease; None where nobody does, where it is just being written, or where it is damaged."""
    try:
        owner = Owner(**json.loads(lease.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    # An identity becomes part of a file's name.
    kinds = ((owner.host, str), (owner.pid, int), (owner.started, float | int), (owner.beat, int), (owner.start, int))
    whole = is_name(owner.identity) and all(isinstance(value, kind) for value, kind in kinds)
    return owner if whole else None


def _claim(lease: Path, mine: Owner) -> int | None:
    """An open handle on a lease of our own, or None as soon as its owner shows that it lives."""
    watch, told = Watch(), False
    first = _content(lease)
    while (handle := _acquire(lease, mine, watch)) is None:
        owner, content = read_owner(lease), _content(lease)
        if owner is not None and (owner.is_alive_here() or content != first):
            return None
        if not told:
            narration.say(f"    {lease.parent} is held by {owner or 'somebody'}; seeing whether that is still alive")
            told = True
        time.sleep(LOOK_SECONDS)
    return handle


def _content(lease: Path) -> str:
    """The text of a lease, "" where there is none; damaged, it is still something to watch."""
    try:
        return lease.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _acquire(lease: Path, mine: Owner, watch: Watch) -> int | None:
    """An open handle on a lease of our own, or None."""
    lease.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(lease, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileNotFoundError:
        return None  # an owner that has left nothing has just removed the folder
    except FileExistsError:
        return _take_over(lease, mine, watch)
    _write(handle, mine)
    return handle


def _take_over(lease: Path, mine: Owner, watch: Watch) -> int | None:
    content = _content(lease)
    owner = read_owner(lease)
    known_dead = owner is not None and (owner.is_dead_here() or owner.is_requeued_as(mine))
    if not known_dead and not watch.is_stale(lease, content):
        return None
    # Of all who find this owner dead, the one who makes this link is the heir. An heir that dies before it has moved
    # in leaves the link behind; it then is watched like a lease, and the next one is made.
    previous = owner.identity if owner else "unreadable"
    for generation in range(1000):
        link = lease.with_name(f"{lease.name}.{previous}.{generation}")
        try:
            os.link(lease, link)
        except FileExistsError:
            if not watch.is_stale(link, ""):
                return None
        except FileNotFoundError:
            return None
        else:
            return _move_in(lease, link, content, mine)
    return None


def _move_in(lease: Path, link: Path, content: str, mine: Owner) -> int | None:
    """Put our lease in the place of a dead one, unless that has become another's meanwhile."""
    if _content(link) != content:
        link.unlink()
        return None
    partial = lease.with_name(f"{lease.name}.{mine.identity}")
    handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    _write(handle, mine)
    partial.replace(lease)
    for old in lease.parent.glob(f"{lease.name}.*"):
        with suppress(FileNotFoundError):
            old.unlink()
    owner = read_owner(lease)
    if owner is None or owner.identity != mine.identity:
        os.close(handle)
        return None
    return handle


def _beat(handle: int, mine: Owner, stop: threading.Event, seconds: float) -> None:
    """Count in the lease until told to stop. The handle stays ours even if the lease's name is taken by another."""
    beat = 0
    while not stop.wait(seconds):
        beat += 1
        # A full disk or a server that is away must not end the run; others wait for several beats.
        with suppress(OSError):
            _write(handle, Owner(**(asdict(mine) | {"beat": beat})))


def _write(handle: int, owner: Owner) -> None:
    text = json.dumps(asdict(owner)).encode()
    # In one write and never shorter than before, since the count only grows: a reader sees the old or the new.
    os.pwrite(handle, text, 0)
