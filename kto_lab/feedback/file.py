"""Feedback from a user's own files: JSON, JSON lines, CSV, Parquet or Arrow."""

import functools
from dataclasses import asdict
from typing import Literal, Unpack

from datasets import Dataset

from kto_lab.feedback.layout import FIELDS, Settings, layout
from kto_lab.feedback.preset_fit import fit
from kto_lab.feedback.rows import ContainerName, Paths, Reading, existing, in_blocks, read_blocks, read_rows
from kto_lab.feedback.survey import table_of
from kto_lab.feedback.table_cache import kept


def from_file(
    *,
    path: Paths,
    container: ContainerName,
    encoding: str | None,
    delimiter: str | None,
    max_rows: int | None,
    format: str | None,
    rows_at: str | None,
    as_chat: bool,
    min_certainty: float | None,
    bad_rows: Literal["error", "drop"],
    held_out: float,
    **settings: Unpack[Settings],
) -> Dataset:
    """The table of examples of files; see `mapping` for what a row may be.

    A file is read once or more (see `survey.table_of`), or, where it is large, not again (see `table_cache`).

    Args:
        path: the file, or files; see `rows.existing`.
        container: see `rows.Reading`.
        encoding: likewise.
        delimiter: likewise.
        max_rows: likewise.
        format: the tool whose rows it holds, one of `presets.PRESETS`; None: as the other settings say.
        rows_at: see `layout.Layout`.
        as_chat: a prompt that is text becomes one user message.
        min_certainty: see `layout.layout`.
        bad_rows: see `layout.layout`.
        held_out: share of prompts in the test split, in [0, 1).
        settings: see `layout.layout`.

    Raises:
        LabError: the file or a row of it cannot be read; the message names the file and the line (Parquet: the row).
    """
    reading = Reading(container, encoding, delimiter, max_rows)
    files = existing(path, "feedback.path")

    def table() -> Dataset:
        fitted = fit(
            format,
            settings,
            functools.partial(read_rows, files, reading),
            rows_at=rows_at,
            fields=FIELDS,
            node="feedback",
            source=str(files),
        )
        how = layout(
            **fitted.settings,
            rows_at=fitted.rows_at,
            chat=fitted.chat or ("all" if as_chat else "given"),
            min_certainty=min_certainty,
            bad_rows=bad_rows,
            formats=format is None,
        )
        blocks = functools.partial(read_blocks, files, reading)
        # The table's identity holds the source's name, so it must not hold the folder.
        return table_of(
            blocks if format is None else lambda: in_blocks(fitted.raws()),
            how,
            source=str(files),
            name=files.name,
            held_out=held_out,
        )

    read_by = {**asdict(reading), **settings, "format": format, "rows_at": rows_at, "as_chat": as_chat}
    read_by |= {"min_certainty": min_certainty, "bad_rows": bad_rows, "held_out": held_out}
    return kept(files, read_by, table)
