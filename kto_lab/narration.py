"""What a computation says as it goes on: what it is at, a remark, how far a loop has come.

Code that computes speaks through these three functions and knows nothing of a screen, so that how a run looks can
change without a change to what the run is. A command plugs in the console (`narrate_with`); without one, as in a
notebook or a script, remarks are printed as they are and nothing shows how far a loop is.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """What `progress` yields: call it when `n` more are done; `note` is shown beside the bar."""

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Move on by `n`."""


class Narrator(Protocol):
    """Shows what is said; the module `kto_lab.console` is one."""

    def stage(self, title: str, why: str, /) -> None:
        """Show what is being done, and why."""

    def say(self, text: str, /) -> None:
        """Show one line."""

    def progress(self, description: str, total: int, /, *, done: int) -> AbstractContextManager[Advance]:
        """Show how far a loop is."""


class Plain:
    """Prints; shows nothing of how far a loop is."""

    def stage(self, title: str, why: str) -> None:
        """Two lines after a blank one."""
        print(f"\n==> {title}\n{why}")

    def say(self, text: str) -> None:
        """The line as it is."""
        print(text)

    @contextmanager
    def progress(self, description: str, total: int, *, done: int) -> Iterator[Advance]:
        """Nothing."""

        def advance(n: int = 1, note: str = "") -> None:
            pass

        yield advance


class Silence(Plain):
    """Shows nothing."""

    def stage(self, title: str, why: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


_narrator: Narrator = Plain()
_listeners: list[Callable[[str], None]] = []


def narrate_with(narrator: Narrator) -> None:
    """Have everything that is said in this process shown by a narrator, from now on."""
    global _narrator
    _narrator = narrator


@contextmanager
def silently() -> Iterator[None]:
    """Have nothing shown of what is said in the block."""
    before = _narrator
    narrate_with(Silence())
    try:
        yield
    finally:
        narrate_with(before)


def stage(title: str, why: str) -> None:
    """Say what is being done, and why."""
    _narrator.stage(title, why)


def say(text: str) -> None:
    """Say one plain line."""
    for listener in _listeners:
        listener(text)
    _narrator.say(text)


@contextmanager
def heard(listener: Callable[[str], None]) -> Iterator[None]:
    """Have the plain lines that are said in the block told to a listener, too."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def progress(description: str, total: int, *, done: int = 0) -> AbstractContextManager[Advance]:
    """Say how far a loop is and how long it will still take.

    Args:
        description: a word or two.
        total: how many there are to do.
        done: how many were done before (of a resumed run).

    Returns:
        A context that yields a function to call with the number of newly finished items, and a note such as the
        current loss.
    """
    return _narrator.progress(description, total, done=done)
