"""Where the answers come from: a file without thumbs (or with some), or the table of examples of `feedback`."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.feedback.known import require_same_checks, split_of
from kto_lab.feedback.layout import Layout, layout
from kto_lab.feedback.mapping import rows_of
from kto_lab.feedback.rows import (
    ContainerName,
    Paths,
    Raw,
    Reading,
    Unreadable,
    all_readable,
    existing,
    in_blocks,
    read_rows,
)
from kto_lab.feedback.scale import Labels
from kto_lab.feedback.survey import surveyed
from kto_lab.feedback.table import prompt_id, require_share
from kto_lab.feedback.whole import as_text
from kto_lab.hashing import content_hash
from kto_lab.judging.answer import Answer

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = (
    "prompt",
    "tools",
    "completion",
    "label",
    "rater",
    "score",
    "timestamp",
    "group",
    "split",
    "finished",
    "checks",
)
# Columns of a table of examples that the labelled one keeps. Rater and score are the labeler's, the others are rebuilt.
KEPT = ("message", "finished", "group", "checks", "split", "ratings", "pair_id", "timestamp", "origin")
# A column that no user has: rows without a thumb are read with it.
_BLANK = "\0no thumb"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """The answers are the examples of the table `feedback`."""

    def read(self, examples: Sequence[Answer]) -> list[Answer]:
        """The examples as they are.

        Raises:
            LabError: there is no table.
        """
        if not examples:
            raise LabError("answers=feedback labels the examples of a table: name it, such as feedback=arithmetic.")
        return list(examples)


@dataclass(frozen=True)
class File:
    """The answers are in files of rows; see `kto_lab.feedback.rows` for what such a file may be.

    Attributes:
        path: the file, or files; see `kto_lab.feedback.rows.existing`.
        container: see `kto_lab.feedback.rows.Reading`.
        encoding: likewise.
        delimiter: likewise.
        max_rows: likewise.
        rows_at: see `kto_lab.feedback.layout.Layout`.
        columns: field name to column name, None where there is no such column. The fields are COLUMNS.
        labels: what the values of the label column mean; None for values that are not a thumb.
        up_from: see `kto_lab.feedback.scale.Scale`.
        down_to: see `kto_lab.feedback.scale.Scale`.
        ignore: columns, and keys of messages, that are left out by name.
        timezone: the zone of times that name none.
        day_first: the order of day and month in numbers; None: as the column of times has it.
        as_chat: a prompt that is text becomes one user message.
        bad_rows: stop at a malformed row, or drop it and say how many were dropped.
        held_out: share of prompts in the test split, where no column says.
    """

    path: Paths
    container: ContainerName
    encoding: str | None
    delimiter: str | None
    max_rows: int | None
    rows_at: str | None
    columns: Mapping[str, str | None]
    labels: Labels | None
    up_from: float | None
    down_to: float | None
    ignore: Sequence[str]
    timezone: str
    day_first: bool | None
    as_chat: bool
    bad_rows: Literal["error", "drop"]
    held_out: float

    def read(self, examples: Sequence[Answer]) -> list[Answer]:
        """The answers of the file, in its order. Rows whose label is absent have no thumb.

        Raises:
            LabError: the file or a row of it cannot be read; the message names the file and the line.
        """
        require_share(self.held_out, "answers.held_out")
        return list(self._answers())

    def _answers(self) -> Iterator[Answer]:
        named = {field: column for field, column in self.columns.items() if column is not None}
        files = existing(self.path, "answers.path")
        reading = Reading(self.container, self.encoding, self.delimiter, self.max_rows, node="answers")
        thumb = _layout(named, self, rated=True) if "label" in named else None
        answer = _layout({**named, "label": _BLANK}, self, rated=False)
        plain = {field: column for field, column in answer.columns.items() if field != "label"}
        whole = thumb or replace(answer, columns=plain)
        # Empty, which is no column's name, where there is none.
        label = thumb.columns["label"] if thumb else ""

        opened = whole.open(lambda: read_rows(files, reading))

        def raws() -> Iterator[Raw]:
            found = opened()
            return found if self.bad_rows == "drop" else all_readable(found)

        settled, said = surveyed(lambda: in_blocks(raws()), whole, source=str(files))
        for sentence in said:
            console.say(f"    {sentence}")
        answer = replace(answer, times=settled.times)
        dropped, first, read = 0, "", 0
        checks: dict[str, str] = {}
        for where, raw in raws():
            read += 1
            try:
                if isinstance(raw, Unreadable):
                    raise raw.error(where)
                (row,) = rows_of({**raw, _BLANK: True}, where, answer)
                given = rows_of(raw, where, settled) if label and raw.get(label) is not None else []
                require_same_checks(checks, prompt_id(row["prompt"]), row["checks"], where)
            except LabError as error:
                if self.bad_rows == "error" or (isinstance(raw, Unreadable) and raw.last):
                    raise
                dropped, first = dropped + 1, first or str(error)
                continue
            yield self._answer(row, where, given[0]["desirable"] if given else None, files.name)
        if dropped:
            logger.warning("%s: dropped %d of %d rows as malformed. The first: %s", files, dropped, read, first)

    def _answer(self, row: dict[str, Any], where: str, thumb: bool | None, name: str) -> Answer:
        split = row["split"] or split_of(prompt_id(row["prompt"]), self.held_out)
        more = {"finished": row["finished"], "group": row["group"] or name, "checks": row["checks"]}
        more |= {"split": split, "timestamp": row["timestamp"], "rater": row["rater"], "score": row["score"]}
        completion = row["completion"]
        if not isinstance(completion, str):
            more["message"] = json.dumps(completion, ensure_ascii=False)
            completion = as_text(completion)
        return Answer(row["prompt"], completion, where, thumb, thumb, more)


def _layout(columns: Mapping[str, str], how: File, *, rated: bool) -> Layout:
    return layout(
        columns,
        labels=how.labels if rated else None,
        up_from=how.up_from if rated else None,
        down_to=how.down_to if rated else None,
        rows_at=how.rows_at,
        chat="all" if how.as_chat else "given",
        ignore=how.ignore,
        timezone=how.timezone,
        day_first=how.day_first,
        bad_rows=how.bad_rows,
        fields=COLUMNS,
        node="answers",
    )


def examples_of(table: "Dataset") -> list[Answer]:
    """The examples of a table as answers that have a thumb."""
    return [
        Answer(
            prompt=row["prompt"],
            completion=row["completion"],
            where=row.get("place") or f"example {row['example_id']}",
            thumb=row["desirable"],
            truth=row["desirable_clean"],
            more={name: row[name] for name in (*KEPT, "rater", "score") if name in row},
        )
        for row in table
    ]


def of_prompts(answers: Sequence[Answer], prompts: int | None) -> list[Answer]:
    """The answers to so many prompts, chosen by hash: independent of order, smaller choices within larger ones."""
    if prompts is None:
        return list(answers)
    if prompts < 1:
        raise LabError(f"limit_prompts is {prompts}; it must be at least 1, or null for all.")
    identities = [answer.prompt_id for answer in answers]
    ranked = sorted(set(identities), key=lambda identity: content_hash("labeling", identity))
    chosen = set(ranked[:prompts])
    return [answer for answer, identity in zip(answers, identities, strict=True) if identity in chosen]
