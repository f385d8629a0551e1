"""Thumbs of any tool that writes a table: JSON, JSON lines, CSV, Parquet or Arrow, with columns of any names."""

import functools
from collections.abc import Iterator
from typing import Unpack

from kto_lab.feedback.layout import Layout, Settings
from kto_lab.feedback.preset_fit import Fitted, fit, named
from kto_lab.feedback.rows import ContainerName, Paths, Reading, existing, read_rows
from kto_lab.importing.exports.mapped import FIELDS, Survey, mapped, mapped_rows
from kto_lab.importing.thumbs import Note, Row


class FileExport:
    """A file of thumbs or pairs.

    Attributes:
        path: the file, or files.
        reading: how they are read.
        rows_at: the path of the list of rows in a file that is an object; None: found.
        cut_at: the tool cuts texts at so many characters; None: it does not.
    """

    def __init__(
        self,
        *,
        path: Paths,
        container: ContainerName,
        encoding: str | None,
        delimiter: str | None,
        max_rows: int | None,
        format: str | None,
        rows_at: str | None,
        **settings: Unpack[Settings],
    ) -> None:
        """Say which file, and what its columns hold.

        Args:
            path: the file, or files; see `kto_lab.feedback.rows.existing`.
            container: see `kto_lab.feedback.rows.Reading`.
            encoding: likewise.
            delimiter: likewise.
            max_rows: likewise.
            format: the tool whose rows it holds, one of `kto_lab.feedback.presets.PRESETS`; None: as the other
                settings say.
            rows_at: see `kto_lab.feedback.layout.Layout`.
            settings: see `kto_lab.feedback.layout.layout`.

        Raises:
            LabError: the format is not known.
        """
        self.path, self._format = path, format
        self.reading = Reading(container, encoding, delimiter, max_rows, node="export")
        self.rows_at, self._settings, self._survey = rows_at, settings, Survey()
        self.cut_at = settings["cut_at"]
        if format is not None and self.cut_at is None:
            self.cut_at = named(format, "export").cut_at

    def read(self) -> Iterator[Row | Note]:
        """One row for each row of the file.

        Raises:
            LabError: the file cannot be read or is not in the format, two settings contradict each other, or see
                `kto_lab.feedback.survey.surveyed`.
        """
        source = existing(self.path, "export.path").name
        fitted, how = self.opened()
        yield from mapped_rows(fitted.raws, how, self._survey, source=source)

    def opened(self) -> tuple[Fitted, Layout]:
        """The rows as the format has them, and how they are read.

        Raises:
            LabError: see `read`.
        """
        files = existing(self.path, "export.path")
        raws = functools.partial(read_rows, files, self.reading, short=True)
        fitted = fit(
            self._format,
            self._settings,
            raws,
            rows_at=self.rows_at,
            fields=FIELDS,
            node="export",
            source=files.name,
        )
        return fitted, mapped(fitted.rows_at, fitted.chat, formats=self._format is None, **fitted.settings)
