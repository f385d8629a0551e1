"""What becomes of each column of an export: it is read as something, ignored for a reason, or nothing knows it."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kto_lab.feedback.paths import steps_of
from kto_lab.feedback.presets import PRESETS
from kto_lab.feedback.rows import Reading, readable
from kto_lab.feedback.unread import holds
from kto_lab.importing.exports.file import FileExport
from kto_lab.importing.guess import LOOKED_AT, first_rows
from kto_lab.importing.known import TOOLS
from kto_lab.importing.thumbs import Export

_FIELDS = {
    "label": "thumb",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "chosen_wins": "which answer won",
    "completion": "answer",
    "timestamp": "time",
}


@dataclass(frozen=True)
class Column:
    """A column, and what becomes of it.

    Attributes:
        name: of the column.
        fate: whether it is read.
        what: what it is read as, or why it is not.
    """

    name: str
    fate: Literal["read", "ignored", "unknown"]
    what: str

    def __str__(self) -> str:
        """In words."""
        return f"read as {self.what}" if self.fate == "read" else f"{self.fate}: {self.what}"


@dataclass(frozen=True)
class Origin:
    """What an export is, and what becomes of its columns.

    Attributes:
        option: of the group `export`; None for a reader of one's own.
        tool: for people; None where it has no name.
        version: of the tool; None where it has one form only.
        columns: those of the first rows.
    """

    option: str | None
    tool: str | None
    version: str | None
    columns: Sequence[Column]


def origin_of(option: str | None, node: Mapping[str, Any], export: Export) -> Origin:
    """What the first rows of an export are, and what becomes of their columns.

    Args:
        option: of the group `export`; None for a reader of one's own, of which nothing is known.
        node: the reader's configuration.
        export: the reader.

    Raises:
        LabError: the export cannot be read.
    """
    if isinstance(export, FileExport):
        format = node.get("format")
        return Origin(option, PRESETS[format].tool if format else None, None, _of_table(export))
    if option not in TOOLS:
        columns = {column: name for name, column in (node.get("columns") or {}).items() if column is not None}
        return Origin(option, None, None, [Column(column, "read", _as(name)) for column, name in columns.items()])
    tool = TOOLS[option]
    rows = first_rows(node[tool.path], Reading(node="export", keys=False))
    version = next((one.name for row in rows for one in tool.versions if one.told(row) is not None), None)
    return Origin(option, tool.name, version, [_of_tool(name, tool.reads) for name in _names(rows)])


def _of_table(export: FileExport) -> list[Column]:
    fitted, how = export.opened()
    first = [str(steps_of(column)[0]) for column in how.columns.values()]
    rows = first_rows(export.path, export.reading, telling=first, rows_at=export.rows_at)
    turned = set(_names([row for _, row in itertools.islice(readable(fitted.raws()), LOOKED_AT)]))
    fields: dict[str, str] = {}
    for name, column in how.columns.items():
        nested = len(steps_of(column)) > 1
        fields.setdefault(str(steps_of(column)[0]), f"{_as(name)}, at {column}" if nested else _as(name))
        fields.setdefault(column, _as(name))
    found = []
    for name in _names(rows):
        if name in fields:
            found.append(Column(name, "read", fields[name]))
        elif name not in turned:
            found.append(Column(name, "read", "part of the prompt, the answers or the thumb, as the format has it"))
        else:
            found.append(_not_read(name, rows, how.ignore))
    return found


def _of_tool(name: str, reads: Mapping[str, str]) -> Column:
    if name in reads:
        return Column(name, "read", reads[name])
    return Column(name, "ignored", "the reader of this tool has no use for it")


def _not_read(name: str, rows: Sequence[Mapping[str, Any]], ignored: Collection[str]) -> Column:
    if name in ignored:
        return Column(name, "ignored", "the format or export.ignore names it")
    if not any(holds(row.get(name)) for row in rows):
        return Column(name, "ignored", f"it is empty in the first {len(rows)} rows")
    return Column(name, "unknown", "nothing says what it holds (export.columns maps it)")


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(name) for row in rows for name in row))


def _as(field: str) -> str:
    return _FIELDS.get(field, field.replace("_", " "))
