"""What readers make of single values: texts, messages, thumbs; and the refusal of a row that gives none."""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kto_lab.errors import LabError
from kto_lab.feedback.messages import decoded, role_of
from kto_lab.feedback.row_values import ROLES
from kto_lab.feedback.scale import Said, Scale
from kto_lab.feedback.times import Times
from kto_lab.feedback.unread import Unread, ignored, without_unread
from kto_lab.feedback.whole import (
    READ,
    NotTextError,
    is_message,
    is_more_than_text,
    whole,
    with_results_as_turns,
    with_tools,
)
from kto_lab.importing.thumbs import Completion, LeftOut, Note, Reason, Thumb

_LONGEST_IDENTITY = 256
# Python refuses to write much larger numbers in decimal.
_LARGE = 10**100
_SHOWN = 40
_LONGEST_DETAIL = 150


class NoThumbError(Exception):
    """A row gives no thumb.

    Attributes:
        reason: why.
        detail: what was found, in a few words.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        """Hold the reason and the detail."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def at(self, where: str) -> LeftOut:
        """The same as a line for the report, with its place."""
        return LeftOut(where, self.reason, self.detail)


def shown(value: Any) -> str:
    """A value in a few characters for a report: the beginning of a text or number, the kind of anything else."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if abs(value) < 10**_SHOWN else "a large number"
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__


def first_sentence(message: str) -> str:
    """What a message says first, as a detail for a report."""
    return message.split(". ")[0][:_LONGEST_DETAIL]


def identity_of(value: Any) -> str | None:
    """An identity (of a user, a message, a row) as text; None where there is none.

    An object or a list (such as MongoDB's `{"$oid": ...}`) counts as one, too, since dropping it would make all people
    one. Long identities end in a hash of the whole, so that they stay distinct.
    """
    if value is None or value == "" or value != value or isinstance(value, bool) or value in ({}, [], b""):
        return None
    if isinstance(value, (dict, list)):
        inner = value.get("$oid") if isinstance(value, dict) and len(value) == 1 else None
        text = inner if isinstance(inner, str) and inner else json.dumps(value, sort_keys=True, default=str)
    elif isinstance(value, float):
        if not math.isfinite(value):
            return None
        text = str(value)
    elif isinstance(value, (bytes, bytearray)):
        text = value.hex()
    else:
        text = hex(value) if isinstance(value, int) and abs(value) >= _LARGE else str(value)
    if len(text) <= _LONGEST_IDENTITY:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
    return text[: _LONGEST_IDENTITY - len(digest)] + digest


def unread_of(ignore: Iterable[str], *message_keys: str) -> Unread:
    """A count of what the rows of an export hold and its reader does not read.

    Args:
        ignore: of `export.ignore`.
        message_keys: what the reader reads of chat messages beside what the table keeps.
    """
    names = ignored(ignore, (), node="export")
    return Unread("export", names, message_keys=tuple(key for key in (*READ, *message_keys) if key not in names))


def notes_of(unread: Unread, source: str) -> list[Note]:
    """What was not read, as a note; LabError where it is part of what was asked or answered."""
    sentence = unread.sentence(source)
    return [] if sentence is None else [Note(sentence)]


def notes_on(said: Sequence[str], scale: Scale, times: Times | None = None) -> list[Note]:
    """What a first look at all rows says; the first note has what it decided about labels and times."""
    settled: dict[str, Any] = {"up_from": scale.up_from, "down_to": scale.down_to, "labels": dict(scale.labels)}
    if times is not None:
        settled |= {"day_first": times.day_first, "timezone": times.timezone}
    first, *others = said or [""]
    return [Note(first, settled), *map(Note, others)]


def message_of(
    value: Any, which: str, keys: Collection[str] = READ, *, reason: Reason = Reason.NO_PROMPT
) -> dict[str, str]:
    """A chat message as the table keeps it; see `kto_lab.feedback.whole`.

    Args:
        value: a mapping with a role, and a content (text, or parts of text), calls or both.
        which: the message, for the refusal ("turn 3").
        keys: those of its keys that are read.
        reason: of the refusal.

    Raises:
        NoThumbError: it is none, or not all of it is text.
    """
    if not isinstance(value, dict):
        raise NoThumbError(reason, f"{which} is no message")
    role = role_of(value)
    if role is None:
        raise NoThumbError(reason, f"{which} has the role {shown(value.get('role', value.get('type')))}")
    message = {**{key: value[key] for key in value if key in keys}, "role": role}
    if without_unread(value) and not without_unread(message):
        raise NoThumbError(reason, f"{which} says nothing but what is ignored")
    if not is_message(message, ROLES):
        raise NoThumbError(reason, f"{which} is not all text")
    with _refused(reason):
        return whole(message, which)


def prompt_of(messages: Any, unread: Unread | None = None, *, tools: Any = None) -> list[dict[str, str]]:
    """The chat messages before an answer, in canonical form.

    Args:
        messages: as the source has them.
        unread: counts what else they hold.
        tools: those that the conversation had, where it had any.

    Raises:
        NoThumbError: there is none, one is no text, or the last one is the assistant's own.
    """
    if not isinstance(messages, list) or not messages:
        raise NoThumbError(Reason.NO_PROMPT, "no turn before the answer")
    turns = turns_of(messages, unread)
    if turns[-1]["role"] == "assistant":
        raise NoThumbError(Reason.NO_PROMPT, "the turn before the answer is the assistant's, too")
    if not any(turn["content"].strip() for turn in turns):
        raise NoThumbError(Reason.NO_PROMPT, "all turns before the answer are empty")
    offered = decoded(tools)
    if not offered or (unread is not None and "tools" in unread.ignore):
        return turns
    with _refused(Reason.NO_PROMPT):
        return with_tools(turns, offered, "the prompt")


def turns_of(messages: list[Any], unread: Unread | None = None) -> list[dict[str, str]]:
    """Chat messages in canonical form.

    Args:
        messages: as the source has them.
        unread: counts what else they hold.

    Raises:
        NoThumbError: one is no message, or not text.
    """
    keys = READ if unread is None else unread.message_keys
    if unread is not None:
        unread.look_at_messages(messages)
    turns = with_results_as_turns(messages)
    return [message_of(message, f"turn {number}", keys) for number, message in enumerate(turns, start=1)]


def answer_of(message: Any, unread: Unread | None = None) -> Completion:
    """What an assistant's message says: its text, or the message where it holds more, such as calls or reasoning.

    Args:
        message: as the source has it.
        unread: counts what else it holds.

    Raises:
        NoThumbError: it is empty, or not all of it is text.
    """
    if unread is not None:
        unread.look_at_messages([message])
    keys = READ if unread is None else unread.message_keys
    found = message_of(message, "the answer", keys, reason=Reason.NO_COMPLETION)
    if not found["content"].strip() and "tool_calls" not in found:
        raise NoThumbError(Reason.NO_COMPLETION, "the answer is empty")
    return found if is_more_than_text(found) else found["content"]


def completion_of(content: Any) -> Completion:
    """An answer from its content: text or parts.

    Raises:
        NoThumbError: it is empty, or not all of it is text.
    """
    if content is None:
        raise NoThumbError(Reason.NO_COMPLETION, "the answer is None")
    if isinstance(content, list) and len(content) > 1 and all(isinstance(part, str) for part in content):
        raise NoThumbError(
            Reason.NO_COMPLETION, f"the answer is {len(content)} texts, which may be turns or alternatives"
        )
    return answer_of({"role": "assistant", "content": content})


@contextmanager
def _refused(reason: Reason) -> Iterator[None]:
    """What is wrong with a message as the refusal of its row."""
    try:
        yield
    except LabError as error:
        why = Reason.NOT_TEXT if isinstance(error, NotTextError) else reason
        raise NoThumbError(why, first_sentence(str(error))) from error


def verdict(scale: Scale, value: Any) -> tuple[bool, float | None]:
    """Thumbs-up or not, and the rating behind it where there is one.

    Raises:
        NoThumbError: the value is absent, neutral or unknown.
    """
    said, rating = scale.says(value)
    if said in (Said.UP, Said.DOWN):
        return said is Said.UP, rating
    if said is Said.UNKNOWN:
        raise NoThumbError(Reason.UNKNOWN_THUMB, shown(value))
    raise NoThumbError(Reason.NO_THUMB, "none given" if said is Said.ABSENT else f"neutral: {shown(value)}")


@dataclass
class Seen:
    """The thumbs that were already read, by their identity in the source.

    The same identity with the same thumb is a thumb that was exported twice. With a different thumb it is a changed
    mind, which the import settles. Sixteen bytes are kept of each: about 100 MB for a million.
    """

    digests: set[bytes] = field(default_factory=set)

    def refuse_again(self, identity: Any, thumbs: tuple[Thumb, ...]) -> None:
        """Refuse thumbs that came before with this identity; those without an identity never did.

        Raises:
            NoThumbError: they did.
        """
        named = identity_of(identity)
        if named is None:
            return
        said = [(thumb.prompt, thumb.completion, thumb.desirable, thumb.signal, thumb.rater) for thumb in thumbs]
        # Escaped, so that half characters are hashed like all others.
        text = json.dumps([named, said], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in self.digests:
            raise NoThumbError(Reason.DUPLICATE_ID, "with the same thumb")
        self.digests.add(digest)


def signals_of(signals: Mapping[str, bool | None], known: tuple[str, ...]) -> dict[str, bool | None]:
    """The table of implicit signals, checked.

    Args:
        signals: each signal's meaning: thumbs-up, thumbs-down, or None for nothing.
        known: the signals that the reader knows.

    Raises:
        LabError: it names another one, or means something else.
    """
    for name, means in signals.items():
        if name not in known:
            raise LabError(f"export.signals has no signal {name!r}. Known: {', '.join(known)}.")
        if means is not None and not isinstance(means, bool):
            raise LabError(f"export.signals.{name} is {means!r}. Map each signal to true, false or null.")
    return dict(signals)
