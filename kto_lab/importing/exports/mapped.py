"""From a row with columns of any names to thumbs; what `file` and `sql` share.

A row is a thumb (prompt, completion, label) or a pair (prompt, chosen, rejected), as for `feedback=file`; see
`kto_lab.feedback.mapping` for the forms of prompts, completions and whole conversations. Here a row that does not fit
is left out with its reason.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, Unpack

from kto_lab.errors import LabError
from kto_lab.feedback.asked import messages_of, texts_of
from kto_lab.feedback.layout import ANSWERS, ASKED, PAIR, THUMB, TOOLS, Layout, Settings, layout
from kto_lab.feedback.mapping import answers_of
from kto_lab.feedback.rows import Block, Raw, in_blocks
from kto_lab.feedback.scale import number_of
from kto_lab.feedback.survey import surveyed
from kto_lab.feedback.whole import with_results_as_turns
from kto_lab.importing.exports.reading import rows_of
from kto_lab.importing.exports.values import (
    NoThumbError,
    Seen,
    completion_of,
    first_sentence,
    identity_of,
    message_of,
    notes_on,
    shown,
    verdict,
)
from kto_lab.importing.thumbs import LeftOut, Note, Reason, Row, Thumb

FIELDS = (*ASKED, TOOLS, *THUMB, *PAIR, "rater", "model", "timestamp", "finished", "id")


class Survey:
    """The look at all rows of an export before any of them is read, taken once: a preview and the import share it."""

    def __init__(self) -> None:
        """Begin without a look."""
        self._found: tuple[Layout, list[str]] | None = None

    def of(self, blocks: Callable[[], Iterable[Block]], how: Layout, *, source: str) -> tuple[Layout, list[str]]:
        """See `kto_lab.feedback.survey.surveyed`; the arguments are the same each time."""
        if self._found is None:
            self._found = surveyed(blocks, how, source=source)
        return self._found


def mapped_rows(raws: Callable[[], Iterable[Raw]], how: Layout, survey: Survey, *, source: str) -> Iterator[Row | Note]:
    """What a first look at all rows says, then one row for each raw row.

    Args:
        raws: gives the rows with their places, from the beginning each time.
        how: the layout as it was set; see `mapped`.
        survey: of this export.
        source: what the rows come from, for messages.

    Raises:
        LabError: see `kto_lab.feedback.survey.surveyed`.
    """
    rows = how.open(raws)
    settled, said = survey.of(lambda: in_blocks(rows()), how, source=source)
    yield from notes_on(said, settled.scale, settled.times if "timestamp" in settled.columns else None)
    seen = Seen()

    def make(where: str, raw: dict[str, Any]) -> Row:
        cells = {name: raw.get(column) for name, column in settled.columns.items()}
        row = _row(where, cells, settled)
        seen.refuse_again(cells.get("id"), row.thumbs)
        return row

    yield from rows_of(rows(), make)


def mapped(
    rows_at: str | None = None,
    chat: Literal["all"] | None = None,
    *,
    formats: bool = False,
    **settings: Unpack[Settings],
) -> Layout:
    """The layout of an export whose columns are mapped by its settings; see `kto_lab.feedback.layout.layout`.

    Args:
        rows_at: see there.
        chat: likewise; None: a text becomes a user message where the row has a system prompt.
        formats: see `kto_lab.feedback.layout.Layout`.
        settings: see `kto_lab.feedback.layout.layout`.

    Raises:
        LabError: a field is unknown or missing, or two settings contradict each other.
    """
    return layout(**settings, rows_at=rows_at, chat=chat or "system", formats=formats, fields=FIELDS, node="export")


def _row(where: str, cells: dict[str, Any], how: Layout) -> Row:
    """The thumb of a row, or the two of a pair; and what is missing of them.

    Raises:
        NoThumbError: it gives none.
    """
    label = "chosen_wins" if how.paired else "label"
    rating = verdict(how.scale, cells[label])[1] if label in cells else None
    read = {name: cells[name] for name in (*ASKED, TOOLS, label, "finished") if name in cells}
    read |= {name: _answer(cells[name], how) for name in ANSWERS if name in cells}
    if "prompt" in cells:
        read["prompt"] = _prompt(cells["prompt"], how)
    try:
        answers = answers_of(read, where, how)
    except LabError as error:
        raise NoThumbError(Reason.UNREADABLE, first_sentence(str(error).removeprefix(f"{where}: "))) from error
    when, identity = how.times.read(cells.get("timestamp")), identity_of(cells.get("id"))
    # Of turns, each side may answer what was said before on its own side: no pair of one prompt.
    paired = how.paired and answers[0]["prompt"] == answers[1]["prompt"] and all(one["completion"] for one in answers)
    scores = ("score_chosen", "score_rejected") if how.paired else ("score",) * len(answers)
    thumbs = [
        Thumb(
            where=where,
            prompt=one["prompt"],
            completion=one["completion"],
            desirable=one["desirable"],
            signal="vote" if how.paired else "thumb" if rating is None else "rating",
            rater=identity_of(cells.get("rater")),
            model=identity_of(cells.get("model")),
            timestamp=when.utc,
            unread_time=when.unread,
            score=number_of(cells.get(score)) if how.paired or rating is None else rating,
            finished=one["finished"],
            identity=identity,
            pair=where if paired else None,
        )
        for one, score in zip(answers, scores, strict=True)
        if one["completion"] is not None
    ]
    missing = LeftOut(where, Reason.NO_COMPLETION, "an answer is missing from its list")
    return Row(tuple(thumbs), (missing,) * (len(answers) - len(thumbs)))


def _prompt(cell: Any, how: Layout) -> Any:
    """A prompt that is text, or chat messages in canonical form."""
    value = messages_of(cell, asked=True)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _messages(value, how)
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
        messages = _messages(value, how)
        if not messages[-1]["content"].strip() and "tool_calls" not in messages[-1]:
            raise NoThumbError(Reason.NO_COMPLETION, "the answer is empty")
        return messages
    if how.asking.lists in ("turns", "alternatives") and texts_of(cell, missing=True) is not None:
        return cell
    answer = completion_of(cell)
    return answer if isinstance(answer, str) else [answer]


def _messages(value: list[Any], how: Layout) -> list[dict[str, str]]:
    turns = with_results_as_turns(value)
    return [message_of(message, f"turn {number}", how.message_keys) for number, message in enumerate(turns, start=1)]
