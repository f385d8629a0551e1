"""Thumbs of any tool that writes a table: JSON, JSON lines, CSV or Parquet, with columns of any names."""

import functools
from collections.abc import Iterator
from typing import Literal, Unpack

from kto_lab.feedback.layout import Settings
from kto_lab.feedback.rows import existing, read_rows
from kto_lab.importing.exports.mapped import mapped, mapped_rows
from kto_lab.importing.thumbs import Note, Row


class FileExport:
    """A file of thumbs or pairs.

    Attributes:
        cut_at: the tool cuts texts at so many characters; None: it does not.
    """

    def __init__(
        self,
        *,
        path: str,
        container: Literal["auto", "json", "jsonl", "csv", "parquet"],
        rows_at: str | None,
        **settings: Unpack[Settings],
    ) -> None:
        """Say which file, and what its columns hold.

        Args:
            path: the file.
            container: see `kto_lab.feedback.rows.read_rows`.
            rows_at: see `kto_lab.feedback.layout.Layout`.
            settings: see `kto_lab.feedback.layout.layout`.

        Raises:
            LabError: two settings contradict each other.
        """
        self._path, self._container = path, container
        self._how = mapped(rows_at, **settings)
        self.cut_at = settings["cut_at"]

    def read(self) -> Iterator[Row | Note]:
        """One row for each row of the file.

        Raises:
            LabError: the file cannot be read, or see `kto_lab.feedback.survey.surveyed`.
        """
        file = existing(self._path, "export.path")
        raws = functools.partial(read_rows, file, self._container, node="export", name=file.name)
        yield from mapped_rows(raws, self._how, source=file.name)
