"""Column mapping: from a raw row, whatever its columns are called, to rows of the table of examples.

Shared by every reader of tables (`feedback=file`, `feedback=hub`, `export=file`, `export=sql`). A raw row is one of

- a thumb: `prompt`, `completion`, `label`. One row of the table.
- a pair: `prompt`, `chosen`, `rejected`. Two rows of the table, one desirable and one not, with the same `pair_id`.

A prompt is text or chat messages, also spelled as JSON; the tools of a `tools` column are those that it had. The text
of a `system` column becomes a system turn before it, and that of an `input` column (of an instruction) is appended to
it after a blank line. A completion is text, or a list of one assistant message, which may call tools. Without a prompt
column the completion holds the whole conversation: chat messages, or a transcript of "Human:" and "Assistant:" turns
with a blank line before each. Its last turn is then the completion, and the turns before it are the prompt.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.feedback.asked import kept_of
from kto_lab.feedback.checkers import read_checks
from kto_lab.feedback.cut import Longest, cut
from kto_lab.feedback.layout import TOOLS, Layout, no_column
from kto_lab.feedback.plain_blocks import PlainBlocks, Readers, Thumbs
from kto_lab.feedback.plain_rows import PlainRows
from kto_lab.feedback.row_values import check_completion, check_prompt
from kto_lab.feedback.rows import Block, Unreadable
from kto_lab.feedback.scale import Said, number_of
from kto_lab.feedback.unread import holds
from kto_lab.feedback.whole import with_tools
from kto_lab.hashing import content_hash

_FINISHED = {"true": True, "false": False, "t": True, "f": False, "yes": True, "no": False}
_COUNTED = {
    "left out": "left out {} of {read} rows, whose label is neutral or too uncertain.",
    "missing": "{} answers are missing (an empty turn of a list) and left out.",
    "one answer": "left out {} pairs of an answer with itself.",
    "cut": "{} answers were cut by the tool that wrote them: they get no end of turn.",
}

logger = logging.getLogger(__name__)


def table_rows(blocks: Iterable[Block], how: Layout, *, source: str) -> Iterator[dict[str, Any] | Thumbs]:
    """Rows for `build_table` from raw rows with their places.

    Rows that are left out (a neutral label, too little certainty), dropped or cut are counted and reported at the end.

    Args:
        blocks: the rows.
        how: the layout, as `survey.surveyed` gives it.
        source: where they come from, for messages.

    Raises:
        LabError: a row is malformed (unless `bad_rows` is "drop").
    """
    told = _Told(how)
    plain, plain_blocks = PlainRows(how, _label), PlainBlocks(how, Readers(_label, _score, _timestamp, _text))
    for block in blocks:
        thumbs = plain_blocks.thumbs(block)
        if thumbs is not None:
            told.see(thumbs, len(block))
            yield thumbs
            continue
        for where, raw in block.raws():
            yield from told.rows(where, raw, plain)
    told.say(source)


class _Told:
    """What becomes of rows, counted."""

    def __init__(self, how: Layout) -> None:
        """Take the layout, as `survey.surveyed` gives it."""
        self._how = how
        self._counts: Counter[str] = Counter()
        self._longest = Longest()
        self._first = ""
        self._pairs: Counter[str] = Counter()

    def see(self, thumbs: Thumbs, read: int) -> None:
        """Count a block of so many rows, of which those are left that are not neutral."""
        self._counts["read"] += read
        self._counts["left out"] += read - len(thumbs)
        self._longest.see_all(thumbs.completions)

    def rows(self, where: str, raw: Mapping[str, Any] | Unreadable, plain: PlainRows) -> Iterator[dict[str, Any]]:
        """The rows of the table that a raw row gives.

        Raises:
            LabError: the row is malformed (unless `bad_rows` is "drop").
        """
        how, counts = self._how, self._counts
        counts["read"] += 1
        try:
            rows = plain.rows(raw, where)
            rows = rows_of(raw, where, how) if rows is None else rows
        except LabError as error:
            if how.bad_rows == "error" or (isinstance(raw, Unreadable) and raw.last):
                raise
            counts["dropped"] += 1
            self._first = self._first or str(error)
            return
        if not rows:
            counts["left out"] += 1
        if how.paired and rows and _same_prompt(rows):
            if rows[0]["completion"] == rows[1]["completion"]:
                counts["one answer"] += 1
                return
            name = _pair_name(rows)
            self._pairs[name] += 1
            rows = [{**row, "pair_id": content_hash(name, self._pairs[name])} for row in rows]
        for row in rows:
            if row["completion"] is None:
                counts["missing"] += 1
                continue
            if not isinstance(row["completion"], str):
                yield row
                continue
            text, finished = cut(row["completion"], how.cut_at, finished=row["finished"])
            self._longest.see(text, finished=finished)
            if finished is not row["finished"]:
                counts["cut"] += 1
                row = {**row, "completion": text, "finished": finished}
            yield row

    def say(self, source: str) -> None:
        """Report what was left out, dropped or cut."""
        counts = self._counts
        for what in ("left out", "one answer", "missing", "cut"):
            if counts[what]:
                narration.say(f"    {source}: {_COUNTED[what].format(counts[what], read=counts['read'])}")
        if told := self._longest.suspicion(self._how.node):
            narration.say(f"    {source}: {told}")
        if counts["dropped"]:
            logger.warning(
                "%s: dropped %d of %d rows as malformed. The first: %s",
                *(source, counts["dropped"], counts["read"], self._first),
            )


def rows_of(raw: Mapping[str, Any] | Unreadable, where: str, how: Layout) -> list[dict[str, Any]]:
    """The table rows of one raw row: one for a thumb, two for a pair, none where it is to be left out.

    The row of an answer that is missing from a list of turns has None as its completion.

    Raises:
        LabError: the row cannot be read, a required column is missing, or a value is malformed.
    """
    if isinstance(raw, Unreadable):
        raise raw.error(where)
    for field in ("prompt", "chosen", "rejected", "completion", "label"):
        if field in how.columns and how.columns[field] not in raw:
            raise no_column(where, field, how.columns[field], raw, node=how.node)
    cells = {field: raw.get(column) for field, column in how.columns.items()}
    if how.min_certainty is not None and _number(cells["certainty"], where, "certainty") < how.min_certainty:
        return []
    known = {
        "where": where,
        "rater": _text(cells.get("rater")),
        "timestamp": _timestamp(cells.get("timestamp"), where, how),
        "group": _text(cells.get("group")),
        "split": cells.get("split"),
        "checks": read_checks(cells.get("checks"), where),
    }
    return [{**known, **answer} for answer in answers_of(cells, where, how)]


def answers_of(cells: Mapping[str, Any], where: str, how: Layout) -> list[dict[str, Any]]:
    """The judged answers of a row: `prompt`, `completion`, `desirable`, `score` and `finished` of each.

    Args:
        cells: the values of the row's fields, by field.
        where: its place, for errors.
        how: the layout, as `survey.surveyed` gives it.

    Raises:
        LabError: a value is malformed.
    """
    return _pair(cells, where, how) if how.paired else _thumb(cells, where, how)


def _same_prompt(rows: list[dict[str, Any]]) -> bool:
    """Whether both halves are there and answer one prompt; with turns, each side may have its own earlier answers."""
    return rows[0]["prompt"] == rows[1]["prompt"] and all(row["completion"] is not None for row in rows)


def _pair_name(rows: list[dict[str, Any]]) -> str:
    """A hash of what a pair compares and who compared it, independent of the order of the file."""
    chosen, rejected = sorted(rows, key=lambda row: not row["desirable"])
    return content_hash("pair", chosen["prompt"], chosen["completion"], rejected["completion"], chosen["rater"])


def _thumb(cells: Mapping[str, Any], where: str, how: Layout) -> list[dict[str, Any]]:
    desirable, rating = _label(cells["label"], where, how)
    if desirable is None:
        return []
    score = rating if cells.get("score") is None else cells["score"]
    return [
        _answer({**cells, "completion": one}, "completion", where, how, desirable=desirable, score=score)
        for one in how.asking.alternatives(cells["completion"])
    ]


def _pair(cells: Mapping[str, Any], where: str, how: Layout) -> list[dict[str, Any]]:
    wins = _label(cells["chosen_wins"], where, how)[0] if "chosen_wins" in cells else True
    if wins is None:
        return []
    answers = [
        _answer(cells, "chosen", where, how, desirable=wins, score=cells.get("score_chosen")),
        _answer(cells, "rejected", where, how, desirable=not wins, score=cells.get("score_rejected")),
    ]
    # With turns, each side has its own earlier answers.
    if answers[0]["prompt"] != answers[1]["prompt"] and how.asking.lists != "turns":
        raise LabError(f"{where}: the two completions do not answer the same prompt. Repair or remove the row.")
    return answers


def _answer(
    cells: Mapping[str, Any], field: str, where: str, how: Layout, *, desirable: bool, score: Any
) -> dict[str, Any]:
    prompt, completion = how.asking.prompt_and_answer(cells, cells[field], where)
    prompt = kept_of(prompt, how.message_keys, where)
    if isinstance(completion, Mapping):
        (completion,) = kept_of([completion], how.message_keys, where)
    if holds(cells.get(TOOLS)):
        prompt = _with_tools(prompt, cells[TOOLS], where, how.node)
    missing = completion is None and how.asking.lists is not None
    return {
        "prompt": check_prompt(prompt, where),
        "completion": None if missing else check_completion(completion, where),
        "desirable": desirable,
        "score": _score(score, where),
        "finished": _finished(cells.get("finished"), where),
    }


def _with_tools(prompt: Any, tools: Any, where: str, node: str) -> Any:
    """The prompt, whose first message keeps the tools that the conversation had."""
    if not isinstance(prompt, list):
        raise LabError(
            f"{where}: the prompt is text, and {node}.columns.tools needs chat messages. Set {node}.as_chat=true to "
            "turn prompts into chat messages."
        )
    return with_tools(prompt, tools, where)


def _label(value: Any, where: str, how: Layout) -> tuple[bool | None, float | None]:
    """Thumbs-up or not (None where the row is to be left out), and the rating behind it."""
    said, rating = how.scale.says(value)
    if said in (Said.UP, Said.DOWN):
        return said is Said.UP, rating
    if said is Said.NEUTRAL:
        return None, None
    node = how.node
    if said is Said.ABSENT:
        raise LabError(f"{where}: there is no label. Remove the row, or drop such rows with {node}.bad_rows=drop.")
    raise LabError(
        f"{where}: the label is {value!r}, whose meaning is not known. Map it with {node}.labels, such as "
        f"{node}.labels='{{good: true, bad: false, unsure: null}}'; null leaves such rows out."
    )


def _number(value: Any, where: str, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise LabError(f"{where}: the {what} is {value!r}, which is not a number. Repair or remove the row.")
    return number


def _score(value: Any, where: str) -> float | None:
    return None if value is None else _number(value, where, "score")


def _finished(value: Any, where: str) -> bool:
    """Whether the answer ended by itself; True where the cell is empty.

    An answer that was cut must not pass for a whole one, so any other value is an error.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    number = number_of(value)
    said = number == 1 if number in (0, 1) else _FINISHED.get(str(value).strip().lower())
    if said is None:
        raise LabError(f"{where}: 'finished' is {value!r:.60}; it must be true or false. Repair or remove the row.")
    return said


def _timestamp(value: Any, where: str, how: Layout) -> str | None:
    when = how.times.read(value)
    if when.unread is not None:
        raise LabError(
            f"{where}: the timestamp is {when.unread}, which cannot be read as one time. Write it like "
            f"2025-03-01T12:00:00Z, or leave times out with {how.node}.columns.timestamp=null."
        )
    return when.utc


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
