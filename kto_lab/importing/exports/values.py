"""What readers make of single values: times, texts, messages, thumbs; and the refusal of a row that gives none."""

import datetime
import hashlib
import json
import math
import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kto_lab.errors import LabError
from kto_lab.importing.thumbs import LeftOut, Reason, Thumb

# What tools call the four roles of the table.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
}
# Thumbs were given in these years; a number that says another is no time.
YEARS = range(2000, 2101)
# Seconds, milliseconds, microseconds and nanoseconds since 1970 do not overlap in these years.
_EPOCH_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (1e20, 1e9))
_EPOCH = re.compile(r"-?[0-9]{9,20}(\.[0-9]+)?")
_LONGEST_TIME = 64
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
    """A value in a few characters for a report: the beginning of a text or number, and only the kind of all else."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if abs(value) < 10**_SHOWN else "a large number"
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__


def zone_of(name: str) -> datetime.tzinfo:
    """The time zone of `export.timezone`, such as "UTC" or "Europe/Berlin"; LabError where it is not known."""
    if name == "UTC":
        return datetime.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
        raise LabError(
            f"export.timezone is {name!r}, which is no known time zone. Use UTC, or a name such as Europe/Berlin."
        ) from error


def utc(value: Any, zone: datetime.tzinfo = datetime.UTC) -> str | None:
    """A time as ISO 8601 in UTC, to the second ("2026-05-01T09:30:00Z"); None where the value is no time.

    A thumb is worth more than its time, so a time that makes no sense leaves nothing out.

    Args:
        value: ISO 8601 text, a datetime or date, or seconds, milliseconds, microseconds or nanoseconds since 1970
            (told apart by their size), as a number or as text.
        zone: what a time means that names no zone.
    """
    moment = _moment(value)
    if moment is None or moment.year not in YEARS:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(datetime.UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _moment(value: Any) -> datetime.datetime | None:
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _from_epoch(value)
    if not isinstance(value, str) or len(value) > _LONGEST_TIME:
        return None
    text = value.strip()
    if _EPOCH.fullmatch(text):
        return _from_epoch(float(text))
    try:
        return datetime.datetime.fromisoformat(text.removesuffix(" UTC") + "Z" if text.endswith(" UTC") else text)
    except ValueError:
        return None


def _from_epoch(number: float) -> datetime.datetime | None:
    for limit, unit in _EPOCH_UNITS:
        if abs(number) < limit:
            return datetime.datetime.fromtimestamp(number / unit, datetime.UTC)
    return None


def identity_of(value: Any) -> str | None:
    """An identity (of a user, a message, a row) as text; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return str(value) if isinstance(value, float) and math.isfinite(value) else None
    return str(value)[:256] or None if isinstance(value, str) else shown(value)


def text_of(content: Any) -> str | None:
    """The text of a message's content: text, or a list of parts that are all text; None for all else.

    Text parts are put together as they are, which is what chat templates do.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts and len(texts) == len(parts) else None


def message_of(value: Any, which: str) -> dict[str, str]:
    """A chat message as {role, content}.

    Args:
        value: a mapping with a role and a content (text, or parts of text).
        which: the message, for the refusal ("turn 3").

    Raises:
        NoThumbError: it is none, or not all of it is text.
    """
    if not isinstance(value, dict):
        raise NoThumbError(Reason.NO_PROMPT, f"{which} is no message")
    named = value.get("role", value.get("type"))
    role = ROLES.get(named.lower()) if isinstance(named, str) else None
    if role is None:
        raise NoThumbError(Reason.NO_PROMPT, f"{which} has the role {shown(named)}")
    text = text_of(value.get("content"))
    if text is None:
        raise NoThumbError(Reason.NO_PROMPT, f"{which} is not all text")
    return {"role": role, "content": text}


def prompt_of(messages: Any) -> list[dict[str, str]]:
    """The chat messages before an answer, in canonical form.

    Raises:
        NoThumbError: there is none, one is no text, or the last one is the assistant's own.
    """
    if not isinstance(messages, list) or not messages:
        raise NoThumbError(Reason.NO_PROMPT, "no turn before the answer")
    turns = [message_of(message, f"turn {number}") for number, message in enumerate(messages, start=1)]
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
        raise NoThumbError(
            Reason.NO_COMPLETION, f"the answer is {shown(content) if content is None else 'not all text'}"
        )
    if not text.strip():
        raise NoThumbError(Reason.NO_COMPLETION, "the answer is empty")
    return text


def decoded(value: Any) -> Any:
    """What a text that spells a JSON object or list stands for; every other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


@dataclass(frozen=True)
class Scale:
    """What a value says: thumbs-up, thumbs-down, or nothing.

    Attributes:
        labels: values in words, in lower case; None for those that say nothing.
        up_from: a number from here on is a thumbs-up; None: a number says no more than its word.
        down_to: a number up to here is a thumbs-down; between the two it is neutral.
    """

    labels: Mapping[str, bool | None]
    up_from: float | None
    down_to: float | None

    @classmethod
    def of(cls, labels: Mapping[Any, bool | None] | None, up_from: float | None, down_to: float | None) -> "Scale":
        """The scale of an export's settings; LabError where they contradict themselves."""
        for word, means in (labels or {}).items():
            if means is not None and not isinstance(means, bool):
                raise LabError(f"export.labels maps {word!r} to {means!r}. Map each value to true, false or null.")
        if up_from is not None and down_to is not None and not down_to < up_from:
            raise LabError(f"export.down_to is {down_to} and export.up_from {up_from}: the first must be the smaller.")
        return cls({_word(word): means for word, means in (labels or {}).items()}, up_from, down_to)

    def verdict(self, value: Any) -> tuple[bool, float | None]:
        """Thumbs-up or not, and the number behind it where there is one.

        Raises:
            NoThumbError: the value is absent, neutral or unknown.
        """
        if value is None or value == "":
            raise NoThumbError(Reason.NO_THUMB, "none given")
        number = number_of(value)
        word = _word(value) if isinstance(value, (str, bool)) or number is not None else ""
        if word in self.labels:
            means = self.labels[word]
        elif number is None or self.up_from is None or self.down_to is None:
            raise NoThumbError(Reason.UNKNOWN_THUMB, shown(value))
        else:
            means = True if number >= self.up_from else False if number <= self.down_to else None
        if means is None:
            raise NoThumbError(Reason.NO_THUMB, f"neutral: {shown(value)}")
        return means, None if isinstance(value, bool) else number


def _word(value: Any) -> str:
    """A value as a word, the same for 1, 1.0 and "1", and for true and "True"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip().lower()


def number_of(value: Any) -> float | None:
    """A finite number, or a short text that spells one; None for all else."""
    if isinstance(value, str) and len(value) > _LONGEST_TIME:
        return None
    try:
        number = float(value) if isinstance(value, (str, int, float)) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


@dataclass
class Seen:
    """Which thumbs came already, by the identity that their source gave them.

    The same identity with the same thumb is one thumb that was exported twice. With another thumb it is a mind that
    changed, which is the import's to decide. Sixteen bytes are kept of each: some 100 MB for a million.
    """

    digests: set[bytes] = field(default_factory=set)

    def refuse_again(self, identity: Any, thumbs: tuple[Thumb, ...]) -> None:
        """See that these thumbs did not come before with this identity; those without an identity never did.

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
