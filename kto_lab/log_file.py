"""What a run says, into a file of plain text: what goes to the console, and what libraries print."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console

from kto_lab.console import redirected, standard

# What moves a terminal's cursor, colours it or names its window.
CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class _Words(io.TextIOBase):
    """Standard output and error inside `into`: a library may keep them, and write when another file has their place.

    Terminal control is left out (colours, and all but the last state of a line that a progress bar writes over), so
    that the file is plain text.
    """

    def __init__(self) -> None:
        self.files: list[TextIO] = []
        self._line = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of every file."""
        return "utf-8"

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """Of the file, for a program that is started with this as its output."""
        return (self.files[-1] if self.files else sys.stderr).fileno()

    def write(self, text: str) -> int:
        """Write whole lines; the last one waits for its end."""
        if not self.files:
            return sys.stderr.write(text)
        *whole, self._line = (self._line + text).split("\n")
        self.files[-1].writelines(_plain(line) + "\n" for line in whole)
        self._line = self._line[self._line.rfind("\r", 0, -1) + 1 :]
        return len(text)

    def flush(self) -> None:
        """Bring whole lines to the file."""
        if self.files:
            self.files[-1].flush()

    @contextmanager
    def to(self, file: TextIO) -> Iterator[None]:
        """Write to a file for a block."""
        self.files.append(file)
        try:
            yield
        finally:
            if self._line:
                self.write("\n")
            self.files.pop()


def _plain(line: str) -> str:
    """A line as a terminal would show it at its end, without colours."""
    return CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2])


_WORDS = _Words()


@contextmanager
def into(path: Path) -> Iterator[None]:
    """Have everything that is said in a block added to a file, also what libraries print.

    A progress display that was begun before stays where it is.
    """
    log = Console(
        file=cast(TextIO, _WORDS),
        highlight=False,
        quiet=standard().quiet,
        width=100,
        force_terminal=False,
        color_system=None,
    )
    with (
        path.open("a", encoding="utf-8") as file,
        redirected(log),
        _WORDS.to(file),
        redirect_stdout(_WORDS),
        redirect_stderr(_WORDS),
    ):
        yield
