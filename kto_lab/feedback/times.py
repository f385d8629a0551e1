"""Times as tools write them, read without guessing: an ambiguous date is unread until its column or a key decides.

Known forms: ISO 8601; year, month and day from left to right (2026/03/15); RFC 1123 and 2822, JavaScript's `Date`, C's
`ctime` (with English month names); day and month in numbers with a four-digit year (15.03.2026, 03/15/2026 10:00 AM);
MongoDB's `{"$date": ...}`; seconds, milliseconds, microseconds and nanoseconds since 1970.

01/02/2026 has two readings. Which one is meant is decided for a whole column: a day above 12 in any of its values
decides for all of them. Where no value decides, or two contradict each other, a key is asked for.
"""

import datetime
import functools
import json
import re
import zoneinfo
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple

from kto_lab.errors import LabError

# Thumbs were given in these years; a number that gives another year is not a time.
YEARS = range(2000, 2101)
# Seconds, milliseconds, microseconds and nanoseconds since 1970 do not overlap in these years.
_EPOCH_UNITS = ((1e11, 1), (1e14, 10**3), (1e17, 10**6), (1e20, 10**9))
_EPOCH = re.compile(r"-?[0-9]{9,20}(\.[0-9]+)?")
_LONGEST, _SHOWN = 120, 60
_MICROSECOND = datetime.timedelta(microseconds=1)
_1970 = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
_NAME = r"(?P<name>[a-z]{3,9})\.?"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<year>\d{4})(?P<mark>[-/.])(?P<month>\d{1,2})(?P=mark)(?P<day>\d{1,2})",
        rf"{_WEEKDAY}(?P<day>\d{{1,2}})[\s.-]+{_NAME}[\s,-]+(?P<year>\d{{4}})",
        rf"{_WEEKDAY}{_NAME}\s+(?P<day>\d{{1,2}}),?\s+(?P<year>\d{{4}})",
        r"(?P<first>\d{1,2})(?P<mark>[-/.])(?P<second>\d{1,2})(?P=mark)(?P<year>\d{4})",
    )
)
_CLOCK = re.compile(
    r"(?:(?:,?\s+(?:at\s+)?|T)(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<part>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[ap])\.?m\.?)?)?"
    r"(?:\s*(?P<zone>z|ut|(?:utc|gmt)?\s*(?:(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?)?(?:\s+utc)?|utc|gmt))?"
    r"(?:\s*\([^()]*\))?",
    re.IGNORECASE,
)
# C's ctime has the year last: "Sun Mar 15 10:00:00 2026", with a zone before it where `date` or Twitter wrote it.
_CTIME = re.compile(
    rf"({_WEEKDAY}[a-z]{{3,9}}\s+\d{{1,2}})\s+([\d:]+)((?:\s+(?:utc|gmt|[+-]\d{{4}}))?)\s+(\d{{4}})", re.I
)


class Ambiguous(Enum):
    """What a numeric date says about the order of day and month."""

    DAY_FIRST = "day first"
    MONTH_FIRST = "month first"
    EITHER = "either"


class When(NamedTuple):
    """A time as it was read.

    Attributes:
        utc: ISO 8601 in UTC ("2026-05-01T09:30:00Z", to the microsecond where it is finer); None where there is none.
        unread: the beginning of a value that cannot be read; None where it can, or where there is no value.
    """

    utc: str | None = None
    unread: str | None = None

    def otherwise(self, other: "When") -> "When":
        """This time, or another where this one is absent, or is unread while the other is not."""
        return self if self.utc or (self.unread and not other.utc) else other


class Times:
    """The reader of one column of times."""

    def __init__(
        self,
        zone: datetime.tzinfo = datetime.UTC,
        day_first: bool | None = None,
        *,
        values: Callable[[], Iterable[Any]] | None = None,
        node: str = "feedback",
        field: str = "columns.timestamp",
    ) -> None:
        """Set how times are read.

        Args:
            zone: the zone of times that name none.
            day_first: the order of day and month in numeric dates; None: as the column has it.
            values: gives all values of the column, to decide that order; called once, and only where there is such a
                date. None: each date must be unambiguous by itself, or it is unread.
            node: the node of the configuration, for messages.
            field: the key in it that names the column, for messages.
        """
        self._zone = zone
        self._day_first = day_first
        self._values = values
        self._node, self._field = node, field

    @property
    def day_first(self) -> bool | None:
        """The order of day and month as it was set or, after `settle`, decided; None where it makes no difference."""
        return self._day_first

    @property
    def timezone(self) -> str:
        """The zone of times that name none."""
        return str(self._zone)

    def read(self, value: Any) -> When:
        """A time; see the module for its forms.

        Raises:
            LabError: the order of day and month is not decided.
        """
        if _absent(value):
            return When()
        if order_of(value) is not None:
            self.settle()
        moment = moment_of(value, self._day_first)
        if moment is None or moment.year not in YEARS:
            return When(unread=_shown(value))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=self._zone)
        return When(moment.astimezone(datetime.UTC).replace(tzinfo=None).isoformat() + "Z")

    def of(self, values: Callable[[], Iterable[Any]]) -> "Times":
        """The reader of these values, with its settings unchanged; see `values` of the constructor."""
        return Times(self._zone, self._day_first, values=values, node=self._node, field=self._field)

    def settle(self) -> None:
        """Decide the order of day and month now, rather than with the first date that needs it.

        Raises:
            LabError: it is not decided.
        """
        if self._day_first is None and self._values is not None:
            self._day_first = self._decided(self._values())
            self._values = None

    def first(self, *values: Any) -> When:
        """The first of several values that can be read; otherwise the first that is not absent."""
        return functools.reduce(When.otherwise, map(self.read, values), When())

    def _decided(self, values: Iterable[Any]) -> bool | None:
        """Whether the day comes first in the dates of a column; None where that makes no difference."""
        examples: dict[Ambiguous, str] = {}
        for value in values:
            order = order_of(value)
            if order is not None:
                examples.setdefault(order, _shown(value))
        day, month, either = (examples.get(order) for order in Ambiguous)
        if day is not None and month is not None:
            found = f"some dates have the day first ({day}), others the month ({month})"
        elif day is None and month is None and either is not None:
            found = f"dates such as {either} can have the day first or the month, and no value of the column decides"
        else:
            return None if day is None and month is None else day is not None
        raise LabError(
            f"{self._node}.{self._field}: {found}. Set {self._node}.day_first=true (15.03.2026) or false (03/15/2026); "
            "what does not fit is then no time."
        )


def zone_of(name: str, key: str) -> datetime.tzinfo:
    """A time zone by its name, such as "UTC" or "Europe/Berlin"; LabError, with the key, where it is not known."""
    if name == "UTC":
        return datetime.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
        raise LabError(
            f"{key} is {name!r}, which is no known time zone. Use UTC, or a name such as Europe/Berlin."
        ) from error


def order_of(value: Any) -> Ambiguous | None:
    """What a date in numbers says of the order of day and month; None for all that has one reading or none."""
    text = _text(value)
    found = None if text is None else _DATES[-1].match(text)
    if text is None or found is None or not _CLOCK.fullmatch(text, found.end()):
        return None
    first, second = int(found["first"]), int(found["second"])
    if first == second or max(first, second) > 31 or min(first, second) > 12:
        return None
    return Ambiguous.DAY_FIRST if first > 12 else Ambiguous.MONTH_FIRST if second > 12 else Ambiguous.EITHER


def moment_of(value: Any, day_first: bool | None = None) -> datetime.datetime | None:
    """The moment that a value names, with a zone where it names one; None where there is no moment, or more than one.

    Args:
        value: see the module for its forms.
        day_first: the order of day and month in numeric dates; None: only unambiguous dates are read.
    """
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, dict):
        return _mongo(value, day_first)
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _since_1970(value)
        text = _text(value)
        if text is None:
            return None
        if text.startswith("{"):
            inner = json.loads(text)
            return _mongo(inner, day_first) if isinstance(inner, dict) else None
        if _EPOCH.fullmatch(text):
            return _since_1970(float(text) if "." in text else int(text))
        return _spelled(text, day_first)
    except (ValueError, StopIteration, OverflowError, RecursionError):
        return None


def _mongo(value: dict[str, Any], day_first: bool | None) -> datetime.datetime | None:
    """A time in MongoDB's extended JSON: a text, or milliseconds since 1970."""
    inner = value.get("$date")
    if isinstance(inner, dict):
        inner = inner.get("$numberLong")
        if not isinstance(inner, str) or not re.fullmatch(r"-?\d{1,18}", inner):
            return None
        inner = int(inner)
    if isinstance(inner, (int, float)) and not isinstance(inner, bool):
        return _after_1970(inner, 10**3)
    return moment_of(inner, day_first) if isinstance(inner, str) and not inner.lstrip().startswith("{") else None


def _since_1970(number: float) -> datetime.datetime | None:
    unit = next((unit for limit, unit in _EPOCH_UNITS if abs(number) < limit), None)
    return None if unit is None else _after_1970(number, unit)


def _after_1970(number: float, unit: int) -> datetime.datetime | None:
    """A time by its distance from 1970. Integers stay exact: a float of nanoseconds is off by hundreds of them."""
    micro = number * 10**6 // unit if isinstance(number, int) else round(number * (10**6 / unit))
    try:
        return _1970 + micro * _MICROSECOND
    except OverflowError:
        return None


def _spelled(text: str, day_first: bool | None) -> datetime.datetime | None:
    """A date and a clock in words or numbers; ValueError where they name no moment."""
    text = _CTIME.sub(r"\1 \4 \2\3", text) if _CTIME.fullmatch(text) else text
    for form in _DATES:
        date = form.match(text)
        clock = None if date is None else _CLOCK.fullmatch(text, date.end())
        if date is not None and clock is not None:
            break
    else:
        # Basic forms and weeks: 20260315T100000Z, 2026-W11-7.
        return datetime.datetime.fromisoformat(text) if re.match(r"\d{4}", text) else None
    found = date.groupdict()
    if "first" in found:
        numbers = int(found["first"]), int(found["second"])
        if day_first is None and order_of(text) is Ambiguous.EITHER:
            return None
        leads = order_of(text) is not Ambiguous.MONTH_FIRST if day_first is None else day_first
        day, month = numbers if leads else numbers[::-1]
    else:
        day, month = int(found["day"]), int(found["month"]) if "month" in found else _month(found["name"])
    return datetime.datetime(int(found["year"]), month, day, *_hours(clock), tzinfo=_offset(clock))


def _month(name: str) -> int:
    short = "sep" if name.lower() == "sept" else name.lower()
    return next(place for place, month in enumerate(_MONTHS, start=1) if short in (month, month[:3]))


def _hours(clock: "re.Match[str]") -> tuple[int, int, int, int]:
    """Hours, minutes, seconds and microseconds."""
    hour = int(clock["hour"] or 0)
    if clock["half"]:
        if not 1 <= hour <= 12:
            raise ValueError("no hour of half a day")
        hour = hour % 12 + (12 if clock["half"].lower() == "p" else 0)
    return hour, int(clock["minute"] or 0), int(clock["second"] or 0), int((clock["part"] or "0").ljust(6, "0")[:6])


def _offset(clock: "re.Match[str]") -> datetime.tzinfo | None:
    if not (clock["zone"] or "").strip():
        return None
    if not clock["sign"]:
        return datetime.UTC
    offset = datetime.timedelta(hours=int(clock["hours"]), minutes=int(clock["minutes"] or 0))
    return datetime.timezone(-offset if clock["sign"] == "-" else offset)


def _text(value: Any) -> str | None:
    """The stripped text, where it is short enough to be a time."""
    return value.strip() if isinstance(value, str) and len(value) <= _LONGEST else None


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) and len(value) <= _SHOWN else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
