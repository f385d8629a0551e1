"""Column mapping: from a raw row, whatever its columns are called, to rows of the table of examples.

Shared by every reader of tables (`feedback=file`, `feedback=hub`, `export=file`, `export=sql`). A raw row is one of

- a thumb: `prompt`, `completion`, `label`. One row of the table.
- a pair: `prompt`, `chosen`, `rejected`. Two rows of the table, one desirable and one not, with the same `pair_id`.

A prompt is text or chat messages, also spelled as JSON. The text of a `system` column becomes a system turn before it,
and that of an `input` column (of an instruction) is appended to it after a blank line. A completion is text, or a list
of one assistant message. Without a prompt column the completion holds the whole conversation: chat messages, or a
transcript of "Human:" and "Assistant:" turns with a blank line before each. Its last turn is then the completion, and
the turns before it are the prompt.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.feedback.asked import LISTS, Asking, check_messages
from kto_lab.feedback.checkers import read_checks
from kto_lab.feedback.cut import Longest, cut
from kto_lab.feedback.rows import Raw, Unreadable
from kto_lab.feedback.scale import Said, Scale, number_of, scale_of
from kto_lab.feedback.table import check_completion, check_prompt
from kto_lab.feedback.times import Times, zone_of
from kto_lab.feedback.unread import ignored
from kto_lab.hashing import content_hash

THUMB = ("completion", "label", "score")
PAIR = ("chosen", "rejected", "chosen_wins", "score_chosen", "score_rejected")
ASKED = ("prompt", "system", "input")
ANSWERS = ("completion", "chosen", "rejected")
FIELDS = (*ASKED, *THUMB, *PAIR, "rater", "timestamp", "group", "split", "finished", "certainty", "checks")

FINISHED = {"true": True, "false": False, "t": True, "f": False, "yes": True, "no": False}
_COUNTED = {
    "left out": "left out {} of {read} rows, whose label is neutral or too uncertain.",
    "missing": "{} answers are missing (an empty turn of a list) and left out.",
    "one answer": "left out {} pairs of an answer with itself.",
    "cut": "{} answers were cut by the tool that wrote them: they get no end of turn.",
}

logger = logging.getLogger(__name__)


class Settings(TypedDict):
    """The settings that every reader of tables has, by their keys; `layout` explains them."""

    columns: Mapping[str, str | None]
    labels: Mapping[Any, bool | None] | None
    up_from: float | None
    down_to: float | None
    timezone: str
    day_first: bool | None
    constant_prompt: str | None
    lists: Literal["turns", "alternatives", "text"] | None
    ignore: Sequence[str]
    cut_at: int | None


@dataclass(frozen=True)
class Layout:
    """How raw rows are read; made and checked by `layout`.

    Attributes:
        columns: the raw column of each field that is read.
        fields: all fields that can be mapped.
        scale: what a label means.
        asking: how prompts and answers are put together.
        times: how the column of times is read.
        ignore: columns, and keys of messages, that are left out by name.
        min_certainty: rows whose `certainty` is lower are left out.
        cut_at: the tool that wrote the rows cuts texts at so many characters; None: it does not.
        bad_rows: stop at a malformed row, or drop it and count it.
    """

    columns: dict[str, str]
    fields: tuple[str, ...]
    scale: Scale
    asking: Asking
    times: Times
    ignore: frozenset[str]
    min_certainty: float | None
    cut_at: int | None
    bad_rows: Literal["error", "drop"]

    @property
    def paired(self) -> bool:
        """Whether a raw row holds two completions."""
        return "chosen" in self.columns

    @property
    def node(self) -> str:
        """The node of the configuration, for messages."""
        return self.asking.node


def layout(
    columns: Mapping[str, str | None],
    *,
    labels: Mapping[Any, bool | None] | None = None,
    up_from: float | None = None,
    down_to: float | None = None,
    timezone: str = "UTC",
    day_first: bool | None = None,
    chat: Literal["given", "system", "all"] = "given",
    constant_prompt: str | None = None,
    lists: Literal["turns", "alternatives", "text"] | None = None,
    ignore: Iterable[str] | None = None,
    min_certainty: float | None = None,
    cut_at: int | None = None,
    bad_rows: Literal["error", "drop"] = "error",
    fields: tuple[str, ...] = FIELDS,
    node: str = "feedback",
) -> Layout:
    """Check the settings of a source and make its layout.

    Args:
        columns: field name to column name; None for a field that the data lacks. Where `chosen` and `rejected` are
            named, `completion` and `label` are not read.
        labels: what label values mean, beyond the words that are known; None for values that leave a row out. See
            `scale.scale_of`.
        up_from: a numeric label of at least this is a thumbs-up; None: the user is asked where it matters.
        down_to: a numeric label of at most this is a thumbs-down; labels in between are neutral.
        timezone: the zone of times that name none.
        day_first: the order of day and month in numeric dates; None: as the column of times has it.
        chat: see `asked.Asking`.
        constant_prompt: the prompt that all answers answer; only where no column holds one.
        lists: what a list of texts is: turns of a conversation whose last answer is judged, alternatives that share
            the row's thumb, or a text that looks like a list. None: the user is asked where there is one.
        ignore: see `Layout`.
        min_certainty: see `Layout`.
        cut_at: see `Layout`.
        bad_rows: see `Layout`.
        fields: the fields that this reader can map.
        node: the node of the configuration, for messages.

    Raises:
        LabError: a field is unknown or missing, or two settings contradict each other.
    """
    if unknown := sorted(set(columns) - set(fields)):
        raise LabError(f"{node}.columns has no field {unknown[0]!r}. Known: {', '.join(fields)}.")
    named = {field: column for field, column in columns.items() if column is not None}
    paired = any(field in named for field in PAIR)
    wanted = ("chosen", "rejected") if paired else ("completion", "label")
    if missing := [field for field in wanted if field not in named]:
        raise LabError(
            f"{node}.columns.{missing[0]} names no column. Name {wanted[0]} and {wanted[1]}, both"
            f"{', or leave out all of ' + ', '.join(PAIR) if paired else ''}."
        )
    if paired and "score" in named:
        raise LabError(f"{node}.columns.score is for rows with one completion. Use score_chosen and score_rejected.")
    if paired and "chosen_wins" not in named and (labels is not None or up_from is not None):
        raise LabError(
            f"{node}.labels, {node}.up_from and {node}.down_to say what a label means, and pairs have none. "
            "Set them to null."
        )
    if (min_certainty is None) != ("certainty" not in named):
        raise LabError(f"{node}.min_certainty and {node}.columns.certainty go together: give both, or neither.")
    if bad_rows not in ("error", "drop"):
        raise LabError(f"{node}.bad_rows is {bad_rows!r}; it must be 'error' or 'drop'.")
    _check_asking(named, constant_prompt, lists, paired=paired, node=node)
    if cut_at is not None and cut_at < 1:
        raise LabError(f"{node}.cut_at is {cut_at}; it must be a number of characters, or null.")
    of_others = THUMB if paired else PAIR
    kept = {field: column for field, column in named.items() if field not in of_others}
    return Layout(
        columns=kept,
        fields=tuple(field for field in fields if field not in of_others),
        scale=scale_of(labels, up_from, down_to, node=node),
        asking=Asking(chat, constant_prompt, lists, node),
        times=Times(zone_of(timezone, f"{node}.timezone"), day_first, node=node),
        ignore=ignored(ignore, kept.values(), node=node),
        min_certainty=min_certainty,
        cut_at=cut_at,
        bad_rows=bad_rows,
    )


def _check_asking(
    named: Mapping[str, str], constant_prompt: str | None, lists: str | None, *, paired: bool, node: str
) -> None:
    if lists is not None and lists not in LISTS:
        raise LabError(f"{node}.lists is {lists!r}; it must be one of {', '.join(LISTS)}, or null.")
    if lists == "alternatives" and paired:
        raise LabError(f"{node}.lists=alternatives is for rows with one thumb, not for pairs.")
    if constant_prompt is not None and "prompt" in named:
        raise LabError(
            f"{node}.constant_prompt is the prompt of all answers, but {node}.columns.prompt names a column of prompts."
            " Set one of them to null."
        )
    if constant_prompt is not None and not constant_prompt.strip():
        raise LabError(f"{node}.constant_prompt is empty. Give the prompt that all answers answer, or null.")
    if "input" in named and "prompt" not in named:
        raise LabError(f"{node}.columns.input is appended to {node}.columns.prompt, which names no column.")


def table_rows(raws: Iterable[Raw], how: Layout, *, source: str) -> Iterator[dict[str, Any]]:
    """Rows for `build_table` from raw rows with their places.

    Rows that are left out (a neutral label, too little certainty), dropped or cut are counted and reported at the end.

    Args:
        raws: the rows.
        how: the layout, as `survey.surveyed` gives it.
        source: where they come from, for messages.

    Raises:
        LabError: a row is malformed (unless `bad_rows` is "drop").
    """
    counts: Counter[str] = Counter()
    longest = Longest()
    first = ""
    pairs: Counter[str] = Counter()
    for where, raw in raws:
        counts["read"] += 1
        try:
            rows = rows_of(raw, where, how)
        except LabError as error:
            if how.bad_rows == "error" or (isinstance(raw, Unreadable) and raw.last):
                raise
            counts["dropped"] += 1
            first = first or str(error)
            continue
        counts["left out"] += not rows
        if how.paired and rows and _same_prompt(rows):
            if rows[0]["completion"] == rows[1]["completion"]:
                counts["one answer"] += 1
                continue
            name = _pair_name(rows)
            pairs[name] += 1
            rows = [{**row, "pair_id": content_hash(name, pairs[name])} for row in rows]
        for row in rows:
            if row["completion"] is None:
                counts["missing"] += 1
                continue
            text, finished = cut(row["completion"], how.cut_at, finished=row["finished"])
            counts["cut"] += row["finished"] and not finished
            longest.see(text, finished=finished)
            yield {**row, "completion": text, "finished": finished}
    for what in ("left out", "one answer", "missing", "cut"):
        if counts[what]:
            narration.say(f"    {source}: {_COUNTED[what].format(counts[what], read=counts['read'])}")
    if told := longest.suspicion(how.node):
        narration.say(f"    {source}: {told}")
    if counts["dropped"]:
        logger.warning(
            "%s: dropped %d of %d rows as malformed. The first: %s", source, counts["dropped"], counts["read"], first
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
    check_messages(prompt, where)
    missing = completion is None and how.asking.lists is not None
    return {
        "prompt": check_prompt(prompt, where),
        "completion": None if missing else check_completion(completion, where),
        "desirable": desirable,
        "score": None if score is None else _number(score, where, "score"),
        "finished": _finished(cells.get("finished"), where),
    }


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


def _finished(value: Any, where: str) -> bool:
    """Whether the answer ended by itself; True where the cell is empty.

    An answer that was cut must not pass for a whole one, so any other value is an error.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    number = number_of(value)
    said = number == 1 if number in (0, 1) else FINISHED.get(str(value).strip().lower())
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


def no_column(where: str, field: str, column: str, have: Iterable[str], *, node: str) -> LabError:
    """The error that a column does not exist.

    Args:
        where: the place.
        field: what the column was to hold.
        column: its name.
        have: the columns that exist.
        node: the node of the configuration.
    """
    names = list(map(str, have))
    more = ""
    if field == "prompt":
        more = (
            f" With {node}.columns.prompt=null, each answer holds the whole conversation; where all answers answer the "
            f"same prompt and no column has it (a comment box, a search page), give it as {node}.constant_prompt='...'."
        )
    return LabError(
        f"{where}: there is no column {column!r} for the {field}. There are: {', '.join(names[:20]) or 'none'}. "
        f"Name the right one with {node}.columns.{field}=<column>.{more}"
    )
