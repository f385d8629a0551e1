"""What readers make of single values: texts, messages, thumbs; and the refusal of a row that gives none."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kto_lab.errors import LabError
from kto_lab.feedback.messages import role_of, text_of
from kto_lab.feedback.scale import Said, Scale
from kto_lab.feedback.times import Times
from kto_lab.feedback.unread import MESSAGE_KEYS, Unread, ignored, without_unread
from kto_lab.importing.thumbs import LeftOut, Note, Reason, Thumb

_LONGEST_IDENTITY = 256
# Python refuses to write much larger numbers in decimal.
_LARGE = 10**100
_SHOWN = 40


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
        message_keys: what the reader reads of chat messages beside role and content.
    """
    return Unread("export", ignored(ignore, (), node="export"), message_keys=(*MESSAGE_KEYS, *message_keys))


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


def message_of(value: Any, which: str, unread: Unread | None = None) -> dict[str, str]:
    """A chat message as {role, content}.

    Args:
        value: a mapping with a role and a content (text, or parts of text).
        which: the message, for the refusal ("turn 3").
        unread: counts what else the message holds.

    Raises:
        NoThumbError: it is none, or not all of it is text.
    """
    if not isinstance(value, dict):
        raise NoThumbError(Reason.NO_PROMPT, f"{which} is no message")
    if unread is not None:
        unread.look_at_messages([value])
    role = role_of(value)
    if role is None:
        raise NoThumbError(Reason.NO_PROMPT, f"{which} has the role {shown(value.get('role', value.get('type')))}")
    if without_unread(value):
        raise NoThumbError(Reason.NO_PROMPT, f"{which} says nothing but what is ignored")
    text = text_of(value.get("content"))
    if text is None:
        raise NoThumbError(Reason.NO_PROMPT, f"{which} is not all text")
    return {"role": role, "content": text}


def prompt_of(messages: Any, unread: Unread | None = None) -> list[dict[str, str]]:
    """The chat messages before an answer, in canonical form.

    Args:
        messages: as the source has them.
        unread: counts what else they hold.

    Raises:
        NoThumbError: there is none, one is no text, or the last one is the assistant's own.
    """
    if not isinstance(messages, list) or not messages:
        raise NoThumbError(Reason.NO_PROMPT, "no turn before the answer")
    turns = [message_of(message, f"turn {number}", unread) for number, message in enumerate(messages, start=1)]
    if turns[-1]["role"] == "assistant":
        raise NoThumbError(Reason.NO_PROMPT, "the turn before the answer is the assistant's, too")
    if not any(turn["content"].strip() for turn in turns):
        raise NoThumbError(Reason.NO_PROMPT, "all turns before the answer are empty")
    return turns


def completion_of(content: Any) -> str:
    """The text of an answer.

    Raises:
        NoThumbError: it is empty, or not all of it is text.
    """
    text = text_of(content)
    if text is None:
        several = isinstance(content, list) and bool(content) and all(isinstance(part, str) for part in content)
        what = f"{len(content)} texts, which may be turns or alternatives" if several else "not all text"
        raise NoThumbError(Reason.NO_COMPLETION, f"the answer is {shown(content) if content is None else what}")
    if not text.strip():
        raise NoThumbError(Reason.NO_COMPLETION, "the answer is empty")
    return text


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
