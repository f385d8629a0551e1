"""From a row with columns of any names to thumbs; what `file` and `sql` share.

A row is a thumb (prompt, completion, label) or a pair (prompt, chosen, rejected), as for `feedback=file`; see
`kto_lab.feedback.mapping` for the forms of prompts, completions and whole conversations. Here a row that does not fit
is left out with its reason.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kto_lab.errors import LabError
from kto_lab.feedback.mapping import PAIR, Layout, layout, rows_of
from kto_lab.importing.exports.reading import Raw
from kto_lab.importing.exports.values import (
    NoThumbError,
    Scale,
    Seen,
    decoded,
    identity_of,
    message_of,
    number_of,
    shown,
    text_of,
    utc,
    zone_of,
)
from kto_lab.importing.thumbs import LeftOut, Reason, Row, Thumb

FIELDS = (
    *("prompt", "completion", "label", "chosen", "rejected", "chosen_wins", "score_chosen", "score_rejected"),
    *("rater", "model", "score", "timestamp", "finished", "id"),
)
_ANSWERS = ("completion", "chosen", "rejected")
_FINISHED = {"true": True, "false": False, "1": True, "0": False, "t": True, "f": False}


@dataclass(frozen=True)
class Mapped:
    """How the rows of a table are read; made by `mapped`, which checks the settings.

    Attributes:
        columns: the column of each field that is read.
        scale: what a label says.
        zone: what a time means that names no zone.
        layout: the same fields under their own names, for `kto_lab.feedback.mapping`.
        seen: the thumbs that came before, where rows have an identity.
    """

    columns: dict[str, str]
    scale: Scale
    zone: datetime.tzinfo
    layout: Layout
    seen: Seen = field(default_factory=Seen)

    def rows(self, raws: Iterable[Raw], source: str) -> Iterator[Row]:
        """One row for each raw row.

        Args:
            raws: rows with their places.
            source: what they come from, for the error.

        Raises:
            LabError: a named column is in no row at all.
        """
        missing, first = dict(self.columns), None
        for where, raw in raws:
            if isinstance(raw, LeftOut):
                yield Row(left_out=(raw,))
                continue
            first = first or list(raw)
            if missing:
                missing = {name: column for name, column in missing.items() if column not in raw}
            try:
                thumbs = self.thumbs(where, raw)
                if "id" in self.columns:
                    self.seen.refuse_again(raw.get(self.columns["id"]), thumbs)
                yield Row(thumbs)
            except NoThumbError as refusal:
                yield Row(left_out=(refusal.at(where),))
        if first is not None:
            require(missing, first, source)

    def thumbs(self, where: str, raw: Mapping[str, Any]) -> tuple[Thumb, ...]:
        """The thumb of a row, or the two of a pair.

        Raises:
            NoThumbError: it gives none.
        """
        cells = {name: raw.get(column) for name, column in self.columns.items()}
        label = "chosen_wins" if self.layout.paired else "label"
        number = None
        if label in cells:
            cells[label], number = self.scale.verdict(cells[label])
        for name in _ANSWERS:
            if name in cells:
                cells[name] = _answer(cells[name])
        if "prompt" in cells:
            cells["prompt"] = _prompt(cells["prompt"])
        read = {name: cells[name] for name in (*_ANSWERS, "prompt", label) if name in cells}
        try:
            rows = rows_of(read, where, self.layout)
        except LabError as error:
            raise NoThumbError(Reason.UNREADABLE, "a prompt or answer of no known form") from error
        scores = ("score_chosen", "score_rejected") if self.layout.paired else ("score",)
        return tuple(
            Thumb(
                where=where,
                prompt=row["prompt"],
                completion=row["completion"],
                desirable=row["desirable"],
                signal="vote" if self.layout.paired else "thumb" if number is None else "rating",
                rater=identity_of(cells.get("rater")),
                model=identity_of(cells.get("model")),
                timestamp=utc(cells.get("timestamp"), self.zone),
                score=_score(cells.get(score)) if self.layout.paired or number is None else number,
                finished=_finished(cells.get("finished")),
            )
            for row, score in zip(rows, scores, strict=True)
        )


def require(missing: Mapping[str, str], found: list[str], source: str) -> None:
    """LabError where a column is missing.

    Args:
        missing: the columns that were not found, by their fields.
        found: some that were.
        source: where they should be.
    """
    if missing:
        name, column = next(iter(missing.items()))
        raise LabError(
            f"{source}: there is no column {column!r} for the {name}. There are: {', '.join(found[:20])}. "
            f"Name the right one with export.columns.{name}=COLUMN."
        )


def mapped(
    columns: Mapping[str, str | None],
    labels: Mapping[Any, bool | None] | None,
    up_from: float,
    down_to: float,
    timezone: str,
) -> Mapped:
    """Check the settings of a source and make its mapping.

    Args:
        columns: field name to column name; None for a field that the data lacks. The fields are `FIELDS`.
        labels: see `Scale`.
        up_from: see `Scale`.
        down_to: see `Scale`.
        timezone: what a time means that names no zone.

    Raises:
        LabError: a field is unknown or missing, or two settings contradict each other.
    """
    if unknown := sorted(set(columns) - set(FIELDS)):
        raise LabError(f"export.columns has no field {unknown[0]!r}. Known: {', '.join(FIELDS)}.")
    named = {name: column for name, column in columns.items() if column is not None}
    paired = any(name in named for name in PAIR)
    wanted = ("chosen", "rejected") if paired else ("completion", "label")
    if missing := [name for name in wanted if name not in named]:
        raise LabError(f"export.columns.{missing[0]} names no column. Name {' and '.join(wanted)}.")
    if paired:
        named = {name: column for name, column in named.items() if name not in ("completion", "label", "score")}
    same = {name: name for name in named if name in ("prompt", *_ANSWERS, "label", "chosen_wins")}
    return Mapped(
        columns=named,
        scale=Scale.of(labels, up_from, down_to),
        zone=zone_of(timezone),
        layout=layout(same),
    )


def _prompt(cell: Any) -> Any:
    """A prompt that is text, or chat messages in canonical form."""
    value = decoded(cell) if isinstance(cell, str) and cell.lstrip().startswith("[") else cell
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _messages(value)
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise NoThumbError(Reason.NO_PROMPT, "the prompt is empty")
    if not isinstance(cell, str):
        raise NoThumbError(Reason.NO_PROMPT, f"the prompt is {shown(cell)}")
    return cell


def _answer(cell: Any) -> Any:
    """An answer that is text, one assistant message, or a whole conversation."""
    value = decoded(cell) if isinstance(cell, str) and cell.lstrip().startswith("[") else cell
    if isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0]:
        messages = _messages(value)
        if not messages[-1]["content"].strip():
            raise NoThumbError(Reason.NO_COMPLETION, "the answer is empty")
        return messages
    text = text_of(value) if isinstance(value, list) else cell
    if text is None or (isinstance(text, str) and not text.strip()):
        raise NoThumbError(Reason.NO_COMPLETION, "the answer is empty")
    if not isinstance(text, str):
        raise NoThumbError(Reason.NO_COMPLETION, f"the answer is {shown(cell)}")
    return text


def _messages(value: list[Any]) -> list[dict[str, str]]:
    return [message_of(message, f"turn {number}") for number, message in enumerate(value, start=1)]


def _finished(cell: Any) -> bool:
    """Whether the answer ended by itself; so taken where the cell says nothing known."""
    return cell if isinstance(cell, bool) else _FINISHED.get(str(cell).strip().lower()[:8], True)


def _score(cell: Any) -> float | None:
    return None if isinstance(cell, bool) else number_of(cell)
