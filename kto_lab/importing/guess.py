"""Guesses which tool wrote a file, from its first rows: tools with a reader of their own, formats, names of columns.

A guess is the configuration of a reader. What rows cannot tell (which numbers are thumbs up, what lists are, whether a
day or a month comes first) is not guessed: the reader asks for it.
"""

import functools
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kto_lab.configuration import config_dir
from kto_lab.errors import LabError
from kto_lab.feedback.layout import DEFAULT_COLUMNS
from kto_lab.feedback.paths import opened, steps_of
from kto_lab.feedback.preset_fit import formats_of
from kto_lab.feedback.presets import PRESETS
from kto_lab.feedback.rows import Reading, all_readable, existing, read_rows, readable
from kto_lab.importing.exports.auto import AutoExport
from kto_lab.importing.known import TOOLS
from kto_lab.quoting import plain

LOOKED_AT = 100
# Where a rating is up is a matter of its scale, which a column's name does not tell.
_NOT_GUESSED = ("stars", "spreadsheet")
# What people call the columns of a table, in letters alone; the first that a file has is taken.
NAMES: Mapping[str, Sequence[str]] = {
    "prompt": ("prompt", "question", "instruction", "query", "usermessage", "request", "usertext"),
    "completion": ("completion", "response", "answer", "output", "reply", "generation", "assistantmessage", "bottext"),
    "label": (
        *("label", "thumb", "thumbs", "thumbsup", "desirable", "liked", "feedback", "vote", "verdict"),
        *("rating", "stars", "score"),
    ),
    "chosen": ("chosen", "preferred", "better", "winner", "accepted"),
    "rejected": ("rejected", "notpreferred", "worse", "loser"),
}
# Fields that may be there beside them.
BESIDE: Mapping[str, Sequence[str]] = {
    "system": ("system", "systemprompt", "systemmessage"),
    "tools": ("tools",),
    "rater": ("rater", "user", "userid", "username", "annotator", "annotatorid", "author"),
    "model": ("model", "modelname", "modelid"),
    "timestamp": ("timestamp", "createdat", "created", "time", "datetime", "date", "when"),
    "id": ("id", "uuid", "feedbackid"),
}
_LETTERS = re.compile("[^a-z0-9]")


@dataclass(frozen=True)
class Guess:
    """What a file seems to be.

    Attributes:
        option: of the group `export`.
        settings: what differs from the option's own values, `path` and all.
        tool: for people.
        version: of the tool; None where it has one form only or does not say.
        told_by: the columns that told it so.
        share: of the rows looked at, how many have these columns; in [0, 1].
        others: what else the rows fit, such as export=file export.format=trl.
        missing: what has to be set before anything can be read, in a sentence; None where nothing has.
    """

    option: str
    settings: Mapping[str, Any]
    tool: str
    version: str | None
    told_by: Sequence[str]
    share: float
    others: Sequence[str] = ()
    missing: str | None = None

    @property
    def words(self) -> list[str]:
        """The guess as words of a command line, for a shell, without the file."""
        format = self.settings.get("format")
        columns = {f"export.columns.{name}": column for name, column in self.settings.get("columns", {}).items()}
        named = [f"export={self.option}", *([f"export.format={format}"] if format else [])]
        set_to = (f"{key}={'null' if column is None else plain(column)}" for key, column in columns.items())
        return [*named, *map(shlex.quote, set_to)]

    def configured(self) -> DictConfig:
        """The configuration of the reader.

        Raises:
            LabError: a key was set that the reader does not have.
        """
        made = option_config(self.option)
        for key, value in self.settings.items():
            if key not in set(made):  # `in` of the node itself is false of a key that is to be set
                raise LabError(
                    f"export.{key} is set, and the reader of {self.tool} has no such key. Name the reader that is meant"
                    f" (this one is export={self.option}), or leave the key out."
                )
            made[key] = {**made[key], **value} if key == "columns" else value
        return made


def options() -> dict[str, Path]:
    """The options of the group `export`, with their files."""
    return {file.stem: file for file in sorted((config_dir() / "export").glob("*.yaml"))}


def option_config(option: str) -> DictConfig:
    """The configuration of an option of the group `export`; LabError where there is none."""
    known = options()
    if option not in known:
        raise LabError(f"There is no export={option}. Known: {', '.join(known)}.")
    made = OmegaConf.load(known[option])
    assert isinstance(made, DictConfig)
    return made


def first_rows(
    path: Any, reading: Reading, *, telling: Sequence[str] = (), rows_at: str | None = None
) -> list[dict[str, Any]]:
    """The first rows of a file, out of their envelope.

    Args:
        path: see `kto_lab.feedback.rows.existing`.
        reading: how the file is read.
        telling: columns that tell a row from an envelope, beside those of tools.
        rows_at: see `kto_lab.feedback.layout.Layout`.

    Raises:
        LabError: the file cannot be read.
    """
    raws = functools.partial(
        read_rows, existing(path, "export.path"), reading, short=True, quiet=True, otherwise="json"
    )
    rows = opened(raws, [*telling, *_telling()], rows_at, node="export")
    return [row for _, row in itertools.islice(readable(rows()), LOOKED_AT)]


def guess(export: AutoExport) -> Guess:
    """What a file seems to be.

    Raises:
        LabError: it cannot be read, none of its rows can, or nothing in it looks like thumbs.
    """
    rows = first_rows(export.path, export.reading)
    if not rows:
        # Says of the first one what is wrong with it.
        next(all_readable(read_rows(existing(export.path, "export.path"), export.reading, otherwise="json")), None)
        raise LabError(f"{export.path}: there is no row in it. Is it the right file?")
    candidates = [*_tools(export, rows), *_formats(export, rows)]
    if not candidates:
        return _by_names(export, rows)
    first, *others = candidates
    # Others that say nothing else are not worth a word.
    said = [" ".join(one.words[:2]) for one in others if one.told_by != first.told_by]
    return replace(first, others=said)


def _tools(export: AutoExport, rows: Sequence[Mapping[str, Any]]) -> list[Guess]:
    """Tools with a reader of their own, each in the version that most rows are of."""
    found = []
    for option, tool in TOOLS.items():
        counted = [(sum(one.told(row) is not None for row in rows), one) for one in tool.versions]
        fitting, version = max(counted, key=lambda pair: pair[0])
        if not fitting:
            continue
        missing = None
        if tool.further:
            missing = f"Name the other files: export={option} export.{tool.path}={export.path} {tool.further}"
        columns = {"columns": export.columns} if export.columns else {}
        settings = {tool.path: export.path, **export.given, **columns}
        told_by = next(told for row in rows if (told := version.told(row)) is not None)
        found.append(Guess(option, settings, tool.name, version.name, told_by, fitting / len(rows), missing=missing))
    return found


def _formats(export: AutoExport, rows: Sequence[Mapping[str, Any]]) -> list[Guess]:
    """Formats of files of rows."""
    found = []
    for one in formats_of(rows):
        if one.format in _NOT_GUESSED:
            continue
        told_by = list(dict.fromkeys(one.columns[name] for name in one.shape.needs or one.shape.columns))
        # Of rows that are turned, other columns may be gone.
        beside = {} if one.shape.turn is not None else _beside(rows, {*one.columns.values(), *export.columns.values()})
        beside = {name: column for name, column in beside.items() if name not in one.columns}
        columns = {**beside, **export.columns}
        settings = {"path": export.path, "format": one.format, **export.given}
        if columns:
            settings["columns"] = columns
        share = sum(all(steps_of(name)[0] in row for name in told_by) for row in rows) / len(rows)
        found.append(Guess("file", settings, PRESETS[one.format].tool, None, told_by, share))
    return found


def _by_names(export: AutoExport, rows: Sequence[Mapping[str, Any]]) -> Guess:
    """A table of columns with usual names.

    Raises:
        LabError: there is neither an answer nor a thumb in it.
    """
    named = {**_named(rows, NAMES, set()), **export.columns}
    paired = "chosen" in named and "rejected" in named
    wanted = ("prompt", "chosen", "rejected") if paired else ("prompt", "completion", "label")
    kept = {name: column for name, column in named.items() if name in (*wanted, *export.columns)}
    there = ", ".join(dict.fromkeys(map(str, itertools.chain.from_iterable(rows))))
    missing = [name for name in wanted[1:] if name not in kept]
    if missing and len(missing) == len(wanted) - 1:
        raise LabError(
            f"{export.path}: no column looks like an answer or a thumb. There are: {there}. Name them with "
            f"{' '.join(f'export.columns.{name}=...' for name in wanted)}, or the tool with export=..."
        )
    columns: dict[str, str | None] = dict.fromkeys(DEFAULT_COLUMNS)
    columns |= {**_beside(rows, set(kept.values())), **kept}
    sentence = None
    if missing:
        keys = " ".join(f"export.columns.{name}=..." for name in missing)
        sentence = f"No column looks like the {' or the '.join(missing)}. There are: {there}. Name it with {keys}"
    share = sum(all(steps_of(column)[0] in row for column in kept.values()) for row in rows) / len(rows)
    return Guess(
        "file",
        {"path": export.path, **export.given, "columns": columns},
        "a table, by the names of its columns",
        None,
        list(kept.values()),
        share,
        missing=sentence,
    )


def _beside(rows: Sequence[Mapping[str, Any]], taken: set[str]) -> dict[str, str]:
    return _named(rows, BESIDE, taken)


def _named(rows: Sequence[Mapping[str, Any]], names: Mapping[str, Sequence[str]], taken: set[str]) -> dict[str, str]:
    """The column of each field by its name, among those that are not taken and hold something."""
    columns = {
        _LETTERS.sub("", str(name).lower()): str(name)
        for row in reversed(rows)
        for name, value in row.items()
        if name not in taken and value is not None
    }
    found = {field: next((columns[one] for one in known if one in columns), None) for field, known in names.items()}
    return {field: column for field, column in found.items() if column is not None}


@functools.cache
def _telling() -> list[str]:
    """Columns of which a row has one, and an envelope of rows none."""
    formats = [
        names.split("|")
        for preset in PRESETS.values()
        for shape in preset.shapes
        for names in (shape.needs or shape.columns).values()
    ]
    tools = [names.split("|") for tool in TOOLS.values() for one in tool.versions for names in one.told_by]
    first = [str(steps_of(name)[0]) for names in [*formats, *tools, *NAMES.values()] for name in names]
    return [name for name in dict.fromkeys(first) if name not in ("data", "feedback", "name", "key", "meta")]
