import datetime
from collections.abc import Iterable
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.times import Times, When, zone_of

MOMENT = "2026-03-15T10:00:00Z"
SECONDS = 1773568800


@pytest.mark.parametrize(
    "value",
    [
        *(SECONDS, float(SECONDS), str(SECONDS), SECONDS * 1000, SECONDS * 10**6, SECONDS * 10**9, f"{SECONDS}000"),
        *("2026-03-15T10:00:00Z", "2026-03-15T12:00:00+02:00", "2026-03-15 10:00:00", " 2026-03-15 10:00:00 UTC "),
        *("20260315T100000Z", "2026-03-15T10:00", "2026-03-15 10:00:00 +0000 UTC", "2026-03-15 11:00:00+01"),
        *("2026-W11-7T10:00:00Z", "2026/03/15 10:00", "2026.3.15 10:00:00"),
        *("Sun, 15 Mar 2026 10:00:00 GMT", "15 Mar 2026 05:00:00 -0500", "15-Mar-2026 10:00"),
        "Sun Mar 15 2026 10:00:00 GMT+0000 (Coordinated Universal Time)",
        "Sun Mar 15 2026 11:00:00 GMT+0100 (Central European Standard Time)",
        *("Sun Mar 15 10:00:00 2026", "Sun Mar 15 10:00:00 +0000 2026", "Sunday, March 15, 2026 at 10:00 AM"),
        *("03/15/2026 10:00 AM", "3/15/2026, 10:00:00\u202fAM", "15.03.2026 10:00"),
        *("15.03.2026, 10:00:00", "15-3-2026 10:00"),
        *({"$date": MOMENT}, {"$date": SECONDS * 1000}, {"$date": {"$numberLong": f"{SECONDS}000"}}),
        '{"$date": "2026-03-15T10:00:00Z"}',
        datetime.datetime(2026, 3, 15, 10),
        datetime.datetime(2026, 3, 15, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    ],
    ids=str,
)  # fmt: skip
def test_times_of_every_form_are_read(value: Any) -> None:
    assert Times().read(value) == When(MOMENT)


@pytest.mark.parametrize(
    "value",
    [
        *("yesterday", "last Tuesday", "soon", True, 0, -1, 12, 10**30, 1e300, float("inf"), "9" * 19, "0001-01-01"),
        *([], {}, {"$date": {}}, {"$date": True}, {"$date": {"$date": MOMENT}}, "{", '{"$date": ' * 9, "x" * 10**6),
        *("03/15/26", "32.03.2026", "13/13/2026", "Sun 15 Mart 2026", "2026-03-15 25:00", "03/15/2026 13:00 PM"),
        *("2026-02-30", "15 Mar 2026 10:00:00 CST", "Tue 2026"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_time_is_unread_and_shown_and_not_absent(value: Any) -> None:
    when = Times().read(value)
    assert when.utc is None and when.unread and len(when.unread) < 80


@pytest.mark.parametrize("value", [None, "", " ", float("nan")])
def test_what_is_absent_is_not_unread(value: Any) -> None:
    assert Times().read(value) == When()


def test_parts_of_a_second_are_kept_since_they_order_thumbs() -> None:
    read = Times().read
    assert read(SECONDS + 0.25).utc == read(SECONDS * 1000 + 250).utc == "2026-03-15T10:00:00.250000Z"
    assert read("2026-03-15T10:00:00.123456789Z").utc == "2026-03-15T10:00:00.123456Z"
    assert read(SECONDS * 10**9 + 123456789).utc == "2026-03-15T10:00:00.123456Z"


def test_a_time_without_a_zone_is_of_the_zone_that_is_set() -> None:
    times = Times(zone_of("Europe/Berlin", "export.timezone"))
    assert times.read("15.03.2026 11:00").utc == times.read(SECONDS).utc == times.read(MOMENT).utc == MOMENT
    assert times.read(datetime.date(2026, 3, 15)).utc == "2026-03-14T23:00:00Z"
    with pytest.raises(LabError, match=r"export\.timezone is 'Nowhere'"):
        zone_of("Nowhere", "export.timezone")


def of_column(*values: str, day_first: bool | None = None) -> list[str | None]:
    def all_of_them() -> Iterable[Any]:
        yield from (None, 7, *values)

    times = Times(day_first=day_first, values=all_of_them, node="export")
    return [times.read(value).utc for value in values]


@pytest.mark.parametrize(
    ("values", "dates"),
    [
        (("04.03.2026", "15.03.2026"), ["2026-03-04", "2026-03-15"]),
        (("03/04/2026", "03/15/2026"), ["2026-03-04", "2026-03-15"]),
        (("03/03/2026", "soon"), ["2026-03-03", None]),
    ],
)
def test_a_day_above_twelve_anywhere_in_the_column_decides_for_all(values: tuple[str, ...], dates: list[str]) -> None:
    for order in (values, values[::-1]):
        assert of_column(*order) == [day and f"{day}T00:00:00Z" for day in (dates if order is values else dates[::-1])]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("04/03/2026", "03/04/2026"), r"export\.columns\.timestamp.*'04/03/2026'.*Set export\.day_first="),
        (("15.03.2026", "03/15/2026"), r"day first \('15.03.2026'\), others the month \('03/15/2026'\).*day_first"),
    ],
)
def test_a_column_that_does_not_decide_asks_by_a_key(values: tuple[str, ...], message: str) -> None:
    with pytest.raises(LabError, match=message):
        of_column(*values)


def test_the_key_decides_and_what_does_not_fit_is_unread() -> None:
    assert of_column("04/03/2026", "03/15/2026", day_first=True) == ["2026-03-04T00:00:00Z", None]
    assert of_column("04/03/2026", "03/15/2026", day_first=False) == ["2026-04-03T00:00:00Z", "2026-03-15T00:00:00Z"]


def test_without_a_column_a_date_of_two_readings_is_unread() -> None:
    assert Times().read("04/03/2026") == When(unread="'04/03/2026'")


def test_the_first_that_can_be_read_is_taken_and_what_cannot_is_said() -> None:
    first = Times().first
    assert first(None, "soon", MOMENT) == When(MOMENT)
    assert first(None, "soon") == When(unread="'soon'") and first(None, "") == When()
