"""An export of a tool that is not named: what it is gets guessed from its rows, by `kto_lab.importing.guess`."""

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

from kto_lab.errors import LabError
from kto_lab.feedback.layout import Settings
from kto_lab.feedback.rows import ContainerName, Paths, Reading
from kto_lab.importing.thumbs import Note, Row

# What settings are where they are not set.
_UNSET = (None, "UTC", "auto")


class AutoExport:
    """A file whose tool is guessed.

    Attributes:
        path: the file, or files; see `kto_lab.feedback.rows.existing`.
        reading: how they are read.
        columns: the columns that were set by hand.
        given: the other settings that were, by their keys.
        cut_at: the tool cuts texts at so many characters; None: as the tool that is guessed does.
    """

    def __init__(
        self,
        *,
        path: Paths,
        container: ContainerName,
        encoding: str | None,
        delimiter: str | None,
        max_rows: int | None,
        **settings: Unpack[Settings],
    ) -> None:
        """Say which file, and what of it is known.

        Args:
            path: see the class.
            container: see `kto_lab.feedback.rows.Reading`.
            encoding: likewise.
            delimiter: likewise.
            max_rows: likewise.
            settings: see `kto_lab.feedback.layout.layout`.
        """
        self.path, self.cut_at = path, settings["cut_at"]
        self.reading = Reading(container, encoding, delimiter, max_rows, node="export")
        self.columns = {name: column for name, column in settings["columns"].items() if column is not None}
        of_files = {"container": container, "encoding": encoding, "delimiter": delimiter, "max_rows": max_rows}
        others: Mapping[str, Any] = {**of_files, **{key: one for key, one in settings.items() if key != "columns"}}
        self.given = {key: one for key, one in others.items() if one not in _UNSET and one != []}

    def read(self) -> Iterator[Row | Note]:
        """Nothing: what is guessed has a reader of its own.

        Raises:
            LabError: always.
        """
        raise LabError("export=auto names no tool. Name one, such as export=file.")
