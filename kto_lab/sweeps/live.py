"""What a person sees while a sweep runs: how many cells are done, running and failed, and the time left.

It looks at the cells' folders, so it sees what any process on any machine does.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from kto_lab import console
from kto_lab.narration import Advance
from kto_lab.runs.status import status

LOOK_SECONDS = 1.0


class Live:
    """Shows the cells for a block, from a thread of its own."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Watch these cells."""
        self.folders = folders
        self._stop = threading.Event()
        self._shown = ExitStack()

    def __enter__(self) -> "Live":
        """Start to look."""
        done = self.counts()["done"]
        # Begun before any cell: it stays on the screen while a cell's own words go to its log.
        advance = self._shown.enter_context(console.progress("cells", len(self.folders), done=done))
        self._thread = threading.Thread(target=self._watch, args=(advance, done), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look once more, and stop."""
        self._stop.set()
        self._thread.join()
        self._shown.close()

    def _watch(self, advance: Advance, finished: int) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(LOOK_SECONDS)
            counts = self.counts()
            words = [f"{counts[state]} {state}" for state in ("running", "failed") if counts[state]]
            advance(counts["done"] - finished, ", ".join(words))
            finished = counts["done"]

    def counts(self) -> Counter[str]:
        """Cells by state. To look every second is cheap: a record is read when it is new."""
        return Counter(status(folder) for folder in self.folders)
