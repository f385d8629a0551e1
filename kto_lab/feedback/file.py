"""Feedback from a user's own file: JSON, JSON lines, CSV or Parquet."""

import functools
from typing import Literal, Unpack

from datasets import Dataset

from kto_lab.feedback.layout import FIELDS, Settings, layout
from kto_lab.feedback.preset_fit import fit
from kto_lab.feedback.rows import existing, read_rows
from kto_lab.feedback.survey import table_of


def from_file(
    *,
    path: str,
    container: Literal["auto", "json", "jsonl", "csv", "parquet"],
    format: str | None,
    rows_at: str | None,
    as_chat: bool,
    min_certainty: float | None,
    bad_rows: Literal["error", "drop"],
    held_out: float,
    **settings: Unpack[Settings],
) -> Dataset:
    """The table of examples of one file; see `mapping` for what a row may be.

    A file is read more than once: see `survey.table_of`.

    Args:
        path: the file.
        container: see `rows.read_rows`.
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
    chat: Literal["all", "given"] = "all" if as_chat else "given"
    file = existing(path, "feedback.path")
    fitted = fit(
        format,
        settings,
        functools.partial(read_rows, file, container),
        rows_at=rows_at,
        fields=FIELDS,
        node="feedback",
        source=str(file),
    )
    how = layout(
        **fitted.settings,
        rows_at=fitted.rows_at,
        chat=fitted.chat or chat,
        min_certainty=min_certainty,
        bad_rows=bad_rows,
    )
    # The table's identity holds the source's name, so it must not hold the folder.
    return table_of(fitted.raws, how, source=str(file), name=file.name, held_out=held_out)
