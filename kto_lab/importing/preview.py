"""What an import would do: the guess, what becomes of each column, and the first rows as they are read."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.feedback.whole import as_text
from kto_lab.importing.columns import Origin
from kto_lab.importing.guess import Guess
from kto_lab.importing.screen import printable
from kto_lab.importing.thumbs import Export, LeftOut, Note, Reason, Row, Thumb

ROWS = 10
# Rows that are looked at for thumbs and unknown words: an export may begin with rows that nobody judged.
LOOKED_AT = 1000
_LONGEST = 200
_WIDTH = 80


@dataclass(frozen=True)
class First:
    """The first rows of an export.

    Attributes:
        notes: remarks of its reader.
        rows: the first rows, as they are shown.
        rows_read: so many rows were looked at.
        thumbs: how many thumbs these gave.
        unknown: what labels say in them that is not known, as it is shown.
    """

    notes: Sequence[str]
    rows: Sequence[Row]
    rows_read: int
    thumbs: int
    unknown: Sequence[str]


def first_of(export: Export) -> First:
    """Read the first rows of an export.

    Raises:
        LabError: something has to be settled first; see `Export.read`.
    """
    notes: list[str] = []
    rows: list[Row] = []
    unknown: dict[str, None] = {}
    read = thumbs = 0
    for row in export.read():
        if isinstance(row, Note):
            notes += [row.text] if row.text else []
            continue
        read, thumbs = read + 1, thumbs + len(row.thumbs)
        unknown |= {line.detail: None for line in row.left_out if line.reason is Reason.UNKNOWN_THUMB}
        if len(rows) < ROWS:
            rows.append(row)
        if read >= LOOKED_AT:
            break
    return First(notes, rows, read, thumbs, list(unknown))


def show_guess(found: Guess) -> None:
    """Say what a file seems to be, and which columns told it so."""
    version = f", version {found.version}" if found.version else ""
    console.stage("Guess", "No tool is named: its rows tell which one wrote them.")
    console.say(f"    {found.tool}{version}:")
    _fill(" ".join(found.words))
    _fill(f"told by {', '.join(found.told_by)}, in {found.share:.0%} of the first rows")
    if found.others:
        _fill(f"it could also be {', '.join(found.others)}")


def show_columns(origin: Origin) -> None:
    """Say what becomes of each column."""
    if not origin.columns:
        return
    console.stage("Columns", "What becomes of each.")
    width = min(max(len(column.name) for column in origin.columns), 24)
    for column in origin.columns:
        console.say(f"    {_shortened(column.name, width):<{width}}  {column}")


def show_first(first: First) -> None:
    """Show the first rows as they are read."""
    for note in first.notes:
        _fill(note)
    table = console.plain_table(f"The first {len(first.rows)} rows as they are read")
    table.add_column("", no_wrap=True)
    table.add_column("prompt", ratio=1)
    table.add_column("answer", ratio=1)
    for row in first.rows:
        for thumb in row.thumbs:
            table.add_row(*_cells(thumb))
        for line in row.left_out:
            table.add_row(Text("-", "dim"), Text(_left_out(line), "dim"), "")
    console.show(table)


def refuse_incomplete(first: First, node: Mapping[str, Any]) -> None:
    """Refuse a guess by which no row gives a thumb, or which leaves words of labels open.

    Args:
        first: the first rows.
        node: the configuration of the reader.

    Raises:
        LabError: it is such a guess.
    """
    if not first.thumbs:
        why = next((_left_out(line) for row in first.rows for line in row.left_out), "there is none")
        raise LabError(
            f"None of the first {first.rows_read:,} rows gives a thumb ({why}), so that the guess is not to be trusted."
            " Name the tool with export=..., or the columns with export.columns."
        )
    words = [shown for shown in first.unknown if shown.startswith(("'", '"'))]
    if words and "labels" in node:
        raise LabError(
            f"The guess is not complete. What {', '.join(words)} in the labels means is not known. Set "
            f"export.labels={{{', '.join(f'{word}: null' for word in words)}}}, with true for a thumbs-up, false for a "
            "thumbs-down, null to leave such rows out."
        )


def _cells(thumb: Thumb) -> Iterable[Text]:
    style = "green" if thumb.desirable else "red"
    prompt = thumb.prompt
    if not isinstance(prompt, str):
        prompt = " | ".join(f"{message['role']}: {as_text(message)}" for message in prompt)
    yield Text("up" if thumb.desirable else "down", style)
    yield Text(_shortened(prompt))
    yield Text(_shortened(thumb.completion if isinstance(thumb.completion, str) else as_text(thumb.completion)))


def _left_out(line: LeftOut) -> str:
    return f"{line.where}: {line.reason.value}" + (f" ({printable(line.detail)})" if line.detail else "")


def _shortened(text: str, width: int = _LONGEST) -> str:
    text = " ".join(printable(text[: 2 * _LONGEST]).split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _fill(text: str) -> None:
    console.say(textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False))
