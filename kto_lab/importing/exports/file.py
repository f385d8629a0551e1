"""Thumbs of any tool that writes a table: JSON lines, a JSON list, CSV or Parquet, with columns of any names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kto_lab.importing.exports.mapped import mapped
from kto_lab.importing.exports.reading import existing, records
from kto_lab.importing.thumbs import Note, Row


@dataclass(frozen=True)
class FileExport:
    """A file of thumbs or pairs.

    Attributes:
        path: the file. A CSV has a header; its empty cells are absent values.
        format: json (a list, or an object a line), jsonl, csv or parquet; auto goes by the name's ending.
        columns: which column holds what; see `mapped`.
        labels: what label values mean, where the common words do not say; None leaves such rows out.
        up_from: a label that is a number from here on is a thumbs-up; None: asked for where it has to be known.
        down_to: one up to here is a thumbs-down.
        constant_prompt: what all answers answer, where there is no column of prompts.
        lists: what a list of texts is: turns, alternatives or text; None: asked for where there is one.
        ignore: columns, and keys of messages, that are left out by name.
        cut_at: the tool cuts texts at so many characters; None: it does not.
        timezone: what a time means that names no zone.
        day_first: the order of day and month in numbers; None: as the column of times has it.
    """

    path: str
    format: Literal["auto", "json", "jsonl", "csv", "parquet"]
    columns: Mapping[str, str | None]
    labels: Mapping[Any, bool | None] | None
    up_from: float | None
    down_to: float | None
    constant_prompt: str | None
    lists: Literal["turns", "alternatives", "text"] | None
    ignore: Sequence[str]
    cut_at: int | None
    timezone: str
    day_first: bool | None

    def read(self) -> Iterator[Row | Note]:
        """One row for each row of the file.

        Raises:
            LabError: the file cannot be read, a setting is wrong, or a named column is in no row.
        """
        how = mapped(
            self.columns,
            self.labels,
            self.up_from,
            self.down_to,
            self.timezone,
            self.day_first,
            constant_prompt=self.constant_prompt,
            lists=self.lists,
            ignore=self.ignore,
        )
        file = existing(self.path, "export.path")
        yield from how.rows(lambda: records(file, self.format), source=file.name)
