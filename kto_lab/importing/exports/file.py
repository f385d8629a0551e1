"""Thumbs of any tool that writes a table: JSON, JSON lines, CSV, Parquet or Arrow, with columns of any names."""

import functools
from collections.abc import Iterator
from typing import Unpack

from kto_lab.feedback.layout import Settings
from kto_lab.feedback.preset_fit import fit, named
from kto_lab.feedback.rows import ContainerName, Paths, Reading, existing, read_rows
from kto_lab.importing.exports.mapped import FIELDS, mapped, mapped_rows
from kto_lab.importing.thumbs import Note, Row


class FileExport:
    """A file of thumbs or pairs.

    Attributes:
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
        self._path, self._format = path, format
        self._reading = Reading(container, encoding, delimiter, max_rows, node="export")
        self._rows_at, self._settings = rows_at, settings
        self.cut_at = settings["cut_at"]
        if format is not None and self.cut_at is None:
            self.cut_at = named(format, "export").cut_at

    def read(self) -> Iterator[Row | Note]:
        """One row for each row of the file.

        Raises:
            LabError: the file cannot be read or is not in the format, two settings contradict each other, or see
                `kto_lab.feedback.survey.surveyed`.
        """
        files = existing(self._path, "export.path")
        raws = functools.partial(read_rows, files, self._reading, short=True)
        fitted = fit(
            self._format,
            self._settings,
            raws,
            rows_at=self._rows_at,
            fields=FIELDS,
            node="export",
            source=files.name,
        )
        how = mapped(fitted.rows_at, fitted.chat, formats=self._format is None, **fitted.settings)
        yield from mapped_rows(fitted.raws, how, source=files.name)
