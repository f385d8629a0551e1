"""Whether a thumb can become an example at all: its texts exist, fit, and can be stored."""

import dataclasses
import datetime
import math
from dataclasses import dataclass
from typing import Any

from kto_lab.errors import LabError
from kto_lab.feedback.row_values import check_completion, check_prompt
from kto_lab.feedback.whole import is_more_than_text, without_ids
from kto_lab.hashing import content_hash
from kto_lab.importing.thumbs import Completion, LeftOut, Prompt, Reason, Thumb

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


@dataclass(frozen=True)
class Screened:
    """A thumb that can become an example.

    Attributes:
        thumb: with its prompt in canonical form.
        time: microseconds since 1970, or None where it is not known.
        characters: of prompt and completion.
    """

    thumb: Thumb
    time: int | None
    characters: int


def screen(thumb: Thumb, max_characters: int, *, as_text: bool = False) -> Screened | LeftOut:
    """Check a thumb.

    Args:
        thumb: from a reader.
        max_characters: the most characters that prompt and completion may have together.
        as_text: a prompt of one user message becomes its text, and a longer conversation, or one with tools, is left
            out.
    """
    where = printable(thumb.where)
    prompt, completion = thumb.prompt, thumb.completion
    if not completion or (isinstance(completion, str) and not completion.strip()):
        return LeftOut(where, Reason.NO_COMPLETION)
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        return LeftOut(where, Reason.NO_PROMPT)
    characters = characters_of(prompt) + characters_of(completion)
    # Before anything looks at the text: a cell of gigabytes is not worth a hash.
    if characters > max_characters or _names(thumb) > max_characters:
        return LeftOut(where, Reason.TOO_LARGE, f"{characters} characters")
    if not _storable(thumb):
        return LeftOut(where, Reason.NOT_STORABLE)
    try:
        # The checks of the table itself, so that nothing is refused when it is written.
        prompt, completion = check_prompt(prompt, where), check_completion(completion, where)
    except LabError:
        return LeftOut(where, Reason.NO_CHAT)
    if as_text and not isinstance(prompt, str):
        if [message["role"] for message in prompt] != ["user"]:
            return LeftOut(where, Reason.NO_SINGLE_TURN, f"{len(prompt)} messages")
        if is_more_than_text(prompt[0]):
            return LeftOut(where, Reason.NO_SINGLE_TURN, "a message that is more than text")
        prompt = prompt[0]["content"]
        if not prompt.strip():
            return LeftOut(where, Reason.NO_PROMPT)
    time = microseconds(thumb.timestamp)
    unread = thumb.unread_time if time is not None or thumb.timestamp is None else thumb.timestamp
    checked = dataclasses.replace(
        thumb,
        where=where,
        prompt=prompt,
        completion=completion,
        timestamp=None if time is None else thumb.timestamp,
        unread_time=None if unread is None else printable(unread),
        identity=None if thumb.identity is None else printable(thumb.identity),
        score=thumb.score if thumb.score is not None and math.isfinite(thumb.score) else None,
    )
    return Screened(checked, time, characters)


def characters_of(said: Prompt | Completion) -> int:
    """The characters of the texts of a prompt or a completion."""
    return sum(len(str(text)) for text in _texts(said))


def identity(prompt: Prompt, completion: Completion) -> tuple[bytes, bytes]:
    """Keys of a prompt and of a completion, 8 bytes each.

    A plain prompt and the same text as a single user message are one prompt. Two answers that differ in their calls
    differ, but not where only the ids of the calls do.
    """
    answer = completion if isinstance(completion, str) else without_ids(completion)
    hashes = content_hash(as_messages(prompt)), content_hash(answer)
    return bytes.fromhex(hashes[0]), bytes.fromhex(hashes[1])


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """The prompt as chat messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def microseconds(timestamp: str | None) -> int | None:
    """Microseconds since 1970 of an ISO 8601 time (in UTC where it names no zone); None where it is not one."""
    try:
        moment = datetime.datetime.fromisoformat(timestamp or "")
    except ValueError:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)) - _EPOCH) // _MICROSECOND


def printable(text: str) -> str:
    """The text with lone surrogates escaped, so that it can be shown and stored."""
    return text.encode("utf-8", "backslashreplace").decode()


def _names(thumb: Thumb) -> int:
    names = (thumb.where, thumb.signal, thumb.rater, thumb.model, thumb.unread_time, thumb.identity)
    return sum(len(name) for name in names if name)


def _storable(thumb: Thumb) -> bool:
    names = [thumb.signal, thumb.rater, thumb.model, thumb.timestamp]
    texts = [*names, *_texts(thumb.prompt), *_texts(thumb.completion)]
    try:
        for text in texts:
            if isinstance(text, str):
                text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(said: Prompt | Completion) -> list[Any]:
    if isinstance(said, str):
        return [said]
    messages = said if isinstance(said, list) else [said]
    return [text for message in messages if isinstance(message, dict) for text in message.values()]
