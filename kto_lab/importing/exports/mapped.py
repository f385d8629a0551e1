"""From a row with columns of any names to thumbs; what `file` and `sql` share.

A row is a thumb (prompt, completion, label) or a pair (prompt, chosen, rejected), as for `feedback=file`; see
`kto_lab.feedback.mapping` for the forms of prompts, completions and whole conversations. Here a row that does not fit
is left out with its reason.
"""

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kto_lab.errors import LabError
from kto_lab.feedback.asked import messages_of, texts_of
from kto_lab.feedback.mapping import PAIR, Layout, layout, rows_of
from kto_lab.feedback.scale import number_of
from kto_lab.feedback.survey import surveyed
from kto_lab.feedback.times import Times, zone_of
from kto_lab.feedback.unread import ignored
from kto_lab.importing.exports.reading import Raw
from kto_lab.importing.exports.values import (
    NoThumbError,
    Seen,
    completion_of,
    identity_of,
    message_of,
    shown,
    verdict,
)
from kto_lab.importing.thumbs import LeftOut, Note, Reason, Row, Thumb

_LONGEST_DETAIL = 150
FIELDS = (
    *("prompt", "system", "input", "completion", "label", "chosen", "rejected", "chosen_wins"),
    *("score_chosen", "score_rejected", "rater", "model", "score", "timestamp", "finished", "id"),
)
_ANSWERS = ("completion", "chosen", "rejected")
_ASKED = ("prompt", "system", "input")
_FINISHED = {"true": True, "false": False, "t": True, "f": False, "yes": True, "no": False}


@dataclass(frozen=True)
class Mapped:
    """How the rows of a table are read; made by `mapped`, which checks the settings.

    Attributes:
        columns: the column of each field that is read.
        zone: what a time means that names no zone.
        day_first: the order of day and month in numbers; None: as the column of times has it.
        layout: the same fields under their own names, for `kto_lab.feedback.mapping`.
        seen: the thumbs that came before, where rows have an identity.
    """

    columns: dict[str, str]
    zone: datetime.tzinfo
    day_first: bool | None
    layout: Layout
    seen: Seen = field(default_factory=Seen)

    def rows(self, raws: Callable[[], Iterable[Raw]], source: str) -> Iterator[Row | Note]:
        """What a first look at all rows says, then one row for each raw row.

        Args:
            raws: gives the rows with their places, from the beginning each time.
            source: what they come from, for messages.

        Raises:
            LabError: see `kto_lab.feedback.survey.surveyed`; or the column of times does not decide how it is read.
        """
        looked = (raw for _, raw in raws() if not isinstance(raw, LeftOut))
        settled, said = surveyed(looked, self.columns, self.layout, fields=FIELDS, source=source)
        how = replace(self, layout=settled)
        yield from map(Note, said)
        times = self.times(raws)
        for where, raw in raws():
            if isinstance(raw, LeftOut):
                yield Row(left_out=(raw,))
                continue
            try:
                row = how.row(where, raw, times)
                if "id" in self.columns:
                    self.seen.refuse_again(raw.get(self.columns["id"]), row.thumbs)
                yield row
            except NoThumbError as refusal:
                yield Row(left_out=(refusal.at(where),))

    def times(self, raws: Callable[[], Iterable[Raw]]) -> Times:
        """How the column of times is read, as its values decide."""
        column = self.columns.get("timestamp", "")

        def values() -> Iterator[Any]:
            return (raw.get(column) for _, raw in raws() if not isinstance(raw, LeftOut))

        return Times(self.zone, self.day_first, values=values, node="export")

    def row(self, where: str, raw: Mapping[str, Any], times: Times) -> Row:
        """The thumb of a row, or the two of a pair; and what is missing of them.

        Raises:
            NoThumbError: it gives none.
        """
        cells = {name: raw.get(column) for name, column in self.columns.items()}
        label = "chosen_wins" if self.layout.paired else "label"
        rating = verdict(self.layout.scale, cells[label])[1] if label in cells else None
        for name in _ANSWERS:
            if name in cells:
                cells[name] = _answer(cells[name], self.layout)
        if "prompt" in cells:
            cells["prompt"] = _prompt(cells["prompt"])
        read = {name: cells[name] for name in (*_ANSWERS, *_ASKED, label) if name in cells}
        try:
            rows = rows_of(read, where, self.layout)
        except LabError as error:
            detail = str(error).removeprefix(f"{where}: ")
            raise NoThumbError(Reason.UNREADABLE, detail.split(". ")[0][:_LONGEST_DETAIL]) from error
        when, identity = times.read(cells.get("timestamp")), identity_of(cells.get("id"))
        # Of turns, each side may answer what was said before on its own side: no pair of one prompt.
        paired = (
            self.layout.paired and rows[0]["prompt"] == rows[1]["prompt"] and all(row["completion"] for row in rows)
        )
        scores = ("score_chosen", "score_rejected") if self.layout.paired else ("score",) * len(rows)
        thumbs = [
            Thumb(
                where=where,
                prompt=row["prompt"],
                completion=row["completion"],
                desirable=row["desirable"],
                signal="vote" if self.layout.paired else "thumb" if rating is None else "rating",
                rater=identity_of(cells.get("rater")),
                model=identity_of(cells.get("model")),
                timestamp=when.utc,
                unread_time=when.unread,
                score=_score(cells.get(score)) if self.layout.paired or rating is None else rating,
                finished=_finished(cells.get("finished")),
                identity=identity,
                pair=where if paired else None,
            )
            for row, score in zip(rows, scores, strict=True)
            if row["completion"] is not None
        ]
        missing = LeftOut(where, Reason.NO_COMPLETION, "an answer is missing from its list")
        return Row(tuple(thumbs), (missing,) * (len(rows) - len(thumbs)))


def mapped(
    columns: Mapping[str, str | None],
    labels: Mapping[Any, bool | None] | None,
    up_from: float | None,
    down_to: float | None,
    timezone: str,
    day_first: bool | None,
    *,
    constant_prompt: str | None,
    lists: Literal["turns", "alternatives", "text"] | None,
    ignore: Iterable[str],
) -> Mapped:
    """Check the settings of a source and make its mapping.

    Args:
        columns: field name to column name; None for a field that the data lacks. The fields are `FIELDS`.
        labels: see `kto_lab.feedback.scale.scale_of`.
        up_from: see `kto_lab.feedback.scale.Scale`.
        down_to: see `kto_lab.feedback.scale.Scale`.
        timezone: what a time means that names no zone.
        day_first: the order of day and month in numbers; None: as the column of times has it.
        constant_prompt: see `kto_lab.feedback.mapping.layout`.
        lists: see `kto_lab.feedback.mapping.layout`.
        ignore: see `kto_lab.feedback.mapping.layout`.

    Raises:
        LabError: a field is unknown or missing, or two settings contradict each other.
    """
    if unknown := sorted(set(columns) - set(FIELDS)):
        raise LabError(f"export.columns has no field {unknown[0]!r}. Known: {', '.join(FIELDS)}.")
    named = {name: column for name, column in columns.items() if column is not None}
    paired = any(name in named for name in PAIR)
    if paired:
        named = {name: column for name, column in named.items() if name not in ("completion", "label", "score")}
    voted = not paired or "chosen_wins" in named
    how = layout(
        {name: name for name in named if name in (*_ASKED, *_ANSWERS, "label", "chosen_wins")},
        labels=(labels or None) if voted else None,
        up_from=up_from if voted else None,
        down_to=down_to if voted else None,
        chat="system",
        constant_prompt=constant_prompt,
        lists=lists,
        node="export",
    )
    names = ignored(ignore, named.values(), node="export")
    return Mapped(
        columns=named,
        zone=zone_of(timezone, "export.timezone"),
        day_first=day_first,
        layout=replace(how, ignore=names),
    )


def _prompt(cell: Any) -> Any:
    """A prompt that is text, or chat messages in canonical form."""
    value = messages_of(cell, asked=True)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _messages(value)
    if texts_of(cell) is not None:
        return cell
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise NoThumbError(Reason.NO_PROMPT, "the prompt is empty")
    if not isinstance(cell, str):
        raise NoThumbError(Reason.NO_PROMPT, f"the prompt is {shown(cell)}")
    return cell


def _answer(cell: Any, how: Layout) -> Any:
    """An answer that is text, one assistant message, a whole conversation, or a list of texts that is known as such."""
    value = messages_of(cell)
    if isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0]:
        messages = _messages(value)
        if not messages[-1]["content"].strip():
            raise NoThumbError(Reason.NO_COMPLETION, "the answer is empty")
        return messages
    if how.asking.lists in ("turns", "alternatives") and texts_of(cell, missing=True) is not None:
        return cell
    return completion_of(cell)


def _messages(value: list[Any]) -> list[dict[str, str]]:
    return [message_of(message, f"turn {number}") for number, message in enumerate(value, start=1)]


def _finished(cell: Any) -> bool:
    """Whether the answer ended by itself; so taken where the cell is empty.

    Raises:
        NoThumbError: it is neither, and says nothing known: an answer that was cut must not pass for a whole one.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return True
    number = number_of(cell)
    found = number == 1 if number in (0, 1) else _FINISHED.get(str(cell).strip().lower())
    if found is None:
        raise NoThumbError(Reason.UNREADABLE, f"finished is {shown(cell)}, and neither true nor false")
    return found


def _score(cell: Any) -> float | None:
    return number_of(cell)
