"""Being stopped by a person or a machine: one way out, with the status that a shell expects and a word on going on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGTERM is what `kill`, time limits and Kubernetes send; SIGINT is Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOK_SECONDS = 1.0
# Between being asked to stop, which waits for the end of a step, and being made to.
GRACE_SECONDS = 120.0


class Stopped(SystemExit):
    """The program was told to stop. Its status is 128 plus the signal's number: 143 for SIGTERM, 130 for Ctrl-C.

    Attributes:
        signum: of the signal.
        saved: what of the work is kept, as a sentence, or "".
    """

    def __init__(self, signum: int, saved: str = "") -> None:
        """See the class."""
        super().__init__(128 + signum)
        self.signum = signum
        self.saved = saved

    @property
    def by(self) -> str:
        """Who stopped it, for a person."""
        return "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name


def stop(signum: int, frame: FrameType | None) -> None:
    """The handler of the signals: end what is running, by way of every `finally`."""
    raise Stopped(signum)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in this block when told to stop; a handler that someone else has set stays."""
    usual = {number: signal.getsignal(number) for number in SIGNALS}
    own = [number for number, handler in usual.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    if threading.current_thread() is not threading.main_thread():
        own = []
    try:
        for number in own:
            signal.signal(number, stop)
        yield
    finally:
        for number in own:
            signal.signal(number, usual[number])


@contextmanager
def ending_with(parent: int) -> Iterator[None]:
    """Stop this block, and this process, when the parent process is no more, however that ended.

    The block is stopped as by SIGTERM: a step that is being trained is finished and saved. Then the process ends,
    whatever else it was to do. Nobody else would tell it: a process outlives a parent that was killed.

    Args:
        parent: its number.
    """
    over = threading.Event()
    threading.Thread(target=_stop_without, args=(parent, over), daemon=True).start()
    try:
        with stoppable():
            yield
    finally:
        over.set()
        if _is_gone(parent):
            # Raised, it might only end this block, and its caller would go on.
            os._exit(128 + signal.SIGTERM)


def _stop_without(parent: int, over: threading.Event) -> None:
    while not _is_gone(parent):
        if over.wait(LOOK_SECONDS):
            return
    os.kill(os.getpid(), signal.SIGTERM)
    if not over.wait(GRACE_SECONDS):
        os._exit(128 + signal.SIGTERM)


def _is_gone(parent: int) -> bool:
    """Whether the parent has ended; its orphans are then another process's children."""
    return os.getppid() != parent
