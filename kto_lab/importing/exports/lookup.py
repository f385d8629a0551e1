"""Rows of one file, looked up by identity while another is read; on disk, so that memory does not grow with them."""

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kto_lab.errors import LabError
from kto_lab.feedback.rows import Raw, Unreadable
from kto_lab.importing.exports.reading import unreadable
from kto_lab.importing.thumbs import LeftOut, Reason, Row

_BLOCK = 1000


class Lookup:
    """Rows by identity; the last one where several share it. Made by `lookup`."""

    def __init__(self, folder: Path) -> None:
        """An empty one in a folder."""
        self._database = sqlite3.connect(folder / "rows.sqlite", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE row (key BLOB PRIMARY KEY, body TEXT) WITHOUT ROWID")

    def fill(self, raws: Iterable[Raw], keys: Callable[[dict[str, Any]], Iterable[str]]) -> Iterator[Row]:
        """Store rows, and yield those that cannot be read, with their places.

        Args:
            raws: the rows.
            keys: the identities of a row; there may be several, or none.
        """
        block: list[tuple[bytes, str]] = []
        for where, raw in raws:
            if isinstance(raw, Unreadable):
                yield Row(left_out=(unreadable(where, raw),))
                continue
            try:
                # Escaped, so that half characters are kept like all others.
                body = json.dumps(raw, default=str)
            except RecursionError:
                yield Row(left_out=(LeftOut(where, Reason.UNREADABLE, "JSON nested too deep"),))
                continue
            block += ((_digest(key), body) for key in keys(raw))
            if len(block) >= _BLOCK:
                self._write(block)
                block = []
        self._write(block)

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of an identity, or None."""
        found = self._database.execute("SELECT body FROM row WHERE key = ?", (_digest(key),)).fetchone()
        return json.loads(found[0]) if found else None

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _write(self, block: list[tuple[bytes, str]]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany("INSERT OR REPLACE INTO row VALUES (?, ?)", block)
        self._database.execute("COMMIT")


@contextmanager
def lookup() -> Iterator[Lookup]:
    """An empty lookup in a temporary folder, which is deleted with it.

    Raises:
        LabError: the disk refuses.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="kto-lab-") as folder:
            rows = Lookup(Path(folder))
            try:
                yield rows
            finally:
                rows.close()
    except (sqlite3.Error, OSError) as error:
        raise LabError(
            f"Rows could not be kept in {tempfile.gettempdir()}: {error}. Free some space there, or set TMPDIR."
        ) from error


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
