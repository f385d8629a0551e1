"""From one raw row, whatever its columns are called, to rows of the table of examples.

Shared by `file` and `hub`. Two kinds of raw row are known:

- a thumb: `prompt`, `completion`, `label`. One row of the table.
- a pair: `prompt`, `chosen`, `rejected`. Two rows of the table, one desirable and one not.

A prompt is text or chat messages. A completion is text, or a list with one assistant message. Where no prompt column is
named, the completion holds the whole conversation: chat messages, or a transcript of "Human:" and "Assistant:" turns
with a blank line before each. Its last turn is then the completion, and the turns before are the prompt.
"""

import datetime
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kto_lab.errors import LabError
from kto_lab.feedback.table import check_completion, check_label, check_prompt
from kto_lab.models.tokens import Prompt

COMMON = ("prompt", "rater", "timestamp", "group", "split", "finished", "certainty")
THUMB = ("completion", "label", "score")
PAIR = ("chosen", "rejected", "chosen_wins", "score_chosen", "score_rejected")

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How raw rows are read; made by `layout`, which checks it.

    Attributes:
        columns: the raw column of each field that is read.
        labels: what each label value means; None for values that leave the row out. Absent: labels are booleans.
        threshold: a numeric label above it is desirable.
        as_chat: a prompt that is text becomes one user message.
        min_certainty: rows whose `certainty` is below it are left out.
        bad_rows: stop at a malformed row, or drop it and say how many were dropped.
    """

    columns: dict[str, str]
    labels: dict[str, bool | None] | None
    threshold: float | None
    as_chat: bool
    min_certainty: float | None
    bad_rows: Literal["error", "drop"]

    @property
    def paired(self) -> bool:
        """Whether a raw row holds two completions."""
        return "chosen" in self.columns


def layout(
    columns: Mapping[str, str | None],
    *,
    labels: Mapping[Any, bool | None] | None = None,
    threshold: float | None = None,
    as_chat: bool = False,
    min_certainty: float | None = None,
    bad_rows: Literal["error", "drop"] = "error",
) -> Layout:
    """Check the settings of a source and make its layout.

    Args:
        columns: field name to column name; None for a field that the data lacks. The fields are COMMON, and THUMB or
            PAIR. Where `chosen` and `rejected` are named, `completion` and `label` are not read.
        labels: see `Layout`; keys are compared as text, with true and false in lower case.
        threshold: see `Layout`.
        as_chat: see `Layout`.
        min_certainty: see `Layout`.
        bad_rows: see `Layout`.

    Raises:
        LabError: a field is unknown or missing, or two settings contradict each other.
    """
    if unknown := sorted(set(columns) - {*COMMON, *THUMB, *PAIR}):
        raise LabError(f"feedback.columns has no field {unknown[0]!r}. Known: {', '.join((*COMMON, *THUMB, *PAIR))}.")
    named = {field: column for field, column in columns.items() if column is not None}
    paired = any(field in named for field in PAIR)
    wanted = ("chosen", "rejected") if paired else ("completion", "label")
    if missing := [field for field in wanted if field not in named]:
        raise LabError(
            f"feedback.columns.{missing[0]} names no column. Name {wanted[0]} and {wanted[1]}, both"
            f"{', or leave out all of ' + ', '.join(PAIR) if paired else ''}."
        )
    if paired and "score" in named:
        raise LabError("feedback.columns.score is for rows with one completion. Use score_chosen and score_rejected.")
    if labels is not None and threshold is not None:
        raise LabError("feedback.labels and feedback.threshold are both given. Labels are mapped by one of them only.")
    if paired and "chosen_wins" not in named and (labels is not None or threshold is not None):
        raise LabError("feedback.labels and feedback.threshold map a label, and pairs have none. Set both to null.")
    if (min_certainty is None) != ("certainty" not in named):
        raise LabError("feedback.min_certainty and feedback.columns.certainty go together: give both, or neither.")
    if bad_rows not in ("error", "drop"):
        raise LabError(f"feedback.bad_rows is {bad_rows!r}; it must be 'error' or 'drop'.")
    read = (*COMMON, *(PAIR if paired else THUMB))
    return Layout(
        columns={field: column for field, column in named.items() if field in read},
        labels=None if labels is None else _label_map(labels),
        threshold=threshold,
        as_chat=as_chat,
        min_certainty=min_certainty,
        bad_rows=bad_rows,
    )


def table_rows(raws: Iterable[tuple[str, Mapping[str, Any]]], how: Layout, *, source: str) -> Iterator[dict[str, Any]]:
    """Rows for `build_table` from raw rows, each with the place it comes from.

    Rows that are left out (a label mapped to null, too little certainty) or dropped are counted and logged.

    Raises:
        LabError: a row is malformed (unless `bad_rows` is "drop"), or a named column is in no row at all.
    """
    seen: dict[str, None] = {}
    counts: Counter[str] = Counter()
    first = ""
    for where, raw in raws:
        seen.update(dict.fromkeys(raw))
        counts["read"] += 1
        try:
            rows = rows_of(raw, where, how)
        except LabError as error:
            if how.bad_rows == "error":
                raise
            counts["dropped"] += 1
            first = first or str(error)
            continue
        counts["left out"] += not rows
        yield from rows
    absent = [(field, column) for field, column in how.columns.items() if column not in seen]
    if counts["read"] and absent:
        raise _no_column(source, *absent[0], seen)
    if counts["left out"]:
        logger.info("%s: left out %d of %d rows, as asked.", source, counts["left out"], counts["read"])
    if counts["dropped"]:
        logger.warning(
            "%s: dropped %d of %d rows as malformed. The first: %s", source, counts["dropped"], counts["read"], first
        )


def rows_of(raw: Mapping[str, Any], where: str, how: Layout) -> list[dict[str, Any]]:
    """The table rows of one raw row: one for a thumb, two for a pair, none where it is to be left out.

    Raises:
        LabError: a required column is missing, or a value is malformed.
    """
    for field in ("prompt", "chosen", "rejected", "completion", "label"):
        if field in how.columns and how.columns[field] not in raw:
            raise _no_column(where, field, how.columns[field], raw)
    cells = {field: raw.get(column) for field, column in how.columns.items()}
    if how.min_certainty is not None and _number(cells["certainty"], where, "certainty") < how.min_certainty:
        return []
    known = {
        "where": where,
        "rater": _text(cells.get("rater")),
        "timestamp": _timestamp(cells.get("timestamp"), where),
        "group": _text(cells.get("group")),
        "split": cells.get("split"),
        "finished": _finished(cells.get("finished"), where),
    }
    answers = _pair(cells, where, how) if how.paired else _thumb(cells, where, how)
    return [{**known, **answer} for answer in answers]


def _thumb(cells: dict[str, Any], where: str, how: Layout) -> list[dict[str, Any]]:
    desirable = _label(cells["label"], where, how)
    if desirable is None:
        return []
    score = cells.get("score")
    if score is None and how.threshold is not None:
        score = cells["label"]
    return [_answer(cells, "completion", where, how, desirable=desirable, score=score)]


def _pair(cells: dict[str, Any], where: str, how: Layout) -> list[dict[str, Any]]:
    wins = _label(cells["chosen_wins"], where, how) if "chosen_wins" in cells else True
    if wins is None:
        return []
    answers = [
        _answer(cells, "chosen", where, how, desirable=wins, score=cells.get("score_chosen")),
        _answer(cells, "rejected", where, how, desirable=not wins, score=cells.get("score_rejected")),
    ]
    if answers[0]["prompt"] != answers[1]["prompt"]:
        raise LabError(f"{where}: the two completions do not answer the same prompt. Repair or remove the row.")
    return answers


def _answer(
    cells: dict[str, Any], field: str, where: str, how: Layout, *, desirable: bool, score: Any
) -> dict[str, Any]:
    if "prompt" in cells:
        prompt, completion = cells["prompt"], _completion(cells[field], where)
    else:
        prompt, completion = _conversation(cells[field], where)
    if how.as_chat and isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    return {
        "prompt": check_prompt(prompt, where),
        "completion": check_completion(completion, where),
        "desirable": desirable,
        "score": None if score is None else _number(score, where, "score"),
    }


def _completion(value: Any, where: str) -> Any:
    """The text of a completion that is text, or a list with one assistant message."""
    if not isinstance(value, list):
        return value
    if len(value) == 1 and isinstance(value[0], Mapping) and value[0].get("role") == "assistant":
        return value[0].get("content")
    raise LabError(
        f"{where}: the completion is a list, and not of one assistant message. Where it holds the whole conversation, "
        "set feedback.columns.prompt=null."
    )


def _conversation(value: Any, where: str) -> tuple[Prompt, Any]:
    """Prompt and last answer of chat messages or of a transcript."""
    messages = _transcript(value) if isinstance(value, str) else value
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        raise LabError(
            f"{where}: without a prompt column a completion is a whole conversation (chat messages, or a transcript of "
            "'Human:' and 'Assistant:' turns) that ends with the assistant's turn; this one does not."
        )
    return messages[:-1], last.get("content")


def _transcript(text: str) -> list[dict[str, str]]:
    """The messages of a transcript; none where the text does not start with a turn."""
    before, *parts = _TURN.split("\n\n" + text.lstrip())
    if before.strip():
        return []
    return [{"role": _ROLE[who], "content": words.strip()} for who, words in zip(parts[::2], parts[1::2], strict=True)]


def _label(value: Any, where: str, how: Layout) -> bool | None:
    if how.threshold is not None:
        return _number(value, where, "label") > how.threshold
    if how.labels is None:
        return check_label(value, where)
    key = _key(value)
    if key not in how.labels:
        raise LabError(
            f"{where}: the label is {value!r}, which feedback.labels does not map; it maps {', '.join(how.labels)}. "
            "Add it as true or false, or as null to leave such rows out."
        )
    return how.labels[key]


def _label_map(labels: Mapping[Any, bool | None]) -> dict[str, bool | None]:
    for key, value in labels.items():
        if value is not None and not isinstance(value, bool):
            raise LabError(f"feedback.labels maps {key!r} to {value!r}. Map each value to true, false or null.")
    return {_key(key): value for key, value in labels.items()}


def _key(value: Any) -> str:
    """A label value as text, the same for 1, 1.0 and "1", and for true and "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _number(value: Any, where: str, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise LabError(f"{where}: the {what} is {value!r}, which is no number. Repair or remove the row.")
    return number


def _finished(value: Any, where: str) -> bool:
    if value is None or isinstance(value, bool):
        return value is not False
    raise LabError(f"{where}: 'finished' is {value!r}; it must be true or false.")


def _timestamp(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime.date):
        return value.isoformat()
    try:
        datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise LabError(
            f"{where}: the timestamp is {value!r}. Write it as ISO 8601, like 2025-03-01T12:00:00Z."
        ) from error
    return str(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _no_column(where: str, field: str, column: str, have: Iterable[str]) -> LabError:
    return LabError(
        f"{where}: there is no column {column!r} for the {field}. There are: {', '.join(map(str, have)) or 'none'}. "
        f"Name the right one with feedback.columns.{field}=<column>."
    )
