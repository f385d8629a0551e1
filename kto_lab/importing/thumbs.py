"""What a reader makes of an export: thumbs, and what it leaves out and why.

Every reader yields one `Row` per source row, in order, and never raises because of a row: a malformed one has a
`LeftOut`. A remark on the whole, such as how labels were read, is a `Note`; a fault of the whole (no such file, a wrong
password, a column of unknown meaning) is a `LabError`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

Prompt: TypeAlias = str | list[dict[str, str]]
# Text, or the assistant's message where it holds more; see `kto_lab.feedback.whole`.
Completion: TypeAlias = str | dict[str, str]


class Reason(StrEnum):
    """Why something is left out, in words for a report."""

    UNREADABLE = "the row cannot be read"
    NO_THUMB = "no thumb, or a neutral one"
    UNKNOWN_THUMB = "a thumb that says nothing known"
    NO_COMPLETION = "no completion, or an empty one"
    NO_PROMPT = "no prompt"
    NO_ANSWER = "the thumb is on no answer of the assistant"
    UNKNOWN_SCHEMA = "a schema that is not known"
    TOO_LARGE = "a text above import.max_characters"
    DUPLICATE_ID = "an identity that came before"
    NOT_TEXT = "an image, audio or another thing that is not text"
    NO_CHAT = "messages that are no prompt to answer"
    NO_SINGLE_TURN = "a conversation, where prompt_form=text takes a single user message"
    ONE_ANSWER = "a pair of an answer with itself"
    OTHER_HALF = "the other answer of the pair cannot be taken"
    NOT_STORABLE = "a text that no file can hold (half a character)"


@dataclass(frozen=True)
class Thumb:
    """One thumb on one answer.

    Attributes:
        where: the place in the source: "feedback.json[12]", "chats.jsonl:7", "ratings.csv:3".
        prompt: text, or chat messages up to the answer, system message, calls of tools and all.
        completion: the answer that was judged: text, or the assistant's message where it holds more.
        desirable: thumbs-up.
        signal: where it comes from: "thumb", "rating", "vote", or an implicit signal's name ("regenerated", "copied").
        rater: who gave it, or None.
        model: the model that answered, or None.
        timestamp: ISO 8601 in UTC ("2026-05-01T09:30:00Z"), or None where it is not known.
        unread_time: a time that cannot be read; None where there is none, or it was read.
        score: the rating behind it, or None.
        finished: the answer ended by itself.
        identity: the thumb's id in the source, or None. Thumbs with different ids are different thumbs.
        pair: the same text in the two thumbs of a row that compares two answers to one prompt; otherwise None.
    """

    where: str
    prompt: Prompt
    completion: Completion
    desirable: bool
    signal: str = "thumb"
    rater: str | None = None
    model: str | None = None
    timestamp: str | None = None
    unread_time: str | None = None
    score: float | None = None
    finished: bool = True
    identity: str | None = None
    pair: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """Something of a source row that gives no thumb.

    Attributes:
        where: its place in the source.
        reason: why.
        detail: what was found there, in a few words, with no more of the content than needed.
    """

    where: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """What one row of the source gives: thumbs, things left out, or both; never nothing."""

    thumbs: tuple[Thumb, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Note:
    """A sentence on the source as a whole, for the terminal and the report.

    Attributes:
        text: the sentence; empty where there is nothing to say.
        settled: what a first look at all rows decided, by the keys of the reader (thresholds, the order of dates).
    """

    text: str
    settled: Mapping[str, Any] = field(default_factory=dict)


class Export(Protocol):
    """A reader of one kind of export; a Hydra option of the group `export`."""

    @property
    def cut_at(self) -> int | None:
        """The tool cuts texts at so many characters; None: it does not."""
        ...

    def read(self) -> Iterator[Row | Note]:
        """The rows in the order of the source, in bounded memory, with notes among them.

        Raises:
            LabError: the source as a whole cannot be read.
        """
        ...
