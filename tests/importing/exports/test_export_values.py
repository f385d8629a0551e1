import datetime
from typing import Any

import pytest

from kto_lab.feedback.scale import scale_of
from kto_lab.importing.exports.values import NoThumbError, shown, text_of, utc, verdict, zone_of
from kto_lab.importing.thumbs import Reason

MOMENT = "2026-05-01T09:30:00Z"
SECONDS = 1777627800


@pytest.mark.parametrize(
    "value",
    [
        *(SECONDS, float(SECONDS) + 0.25, str(SECONDS), f"{SECONDS}.5"),
        *(SECONDS * 1000, SECONDS * 10**6, SECONDS * 10**9, str(SECONDS * 1000)),
        *("2026-05-01T09:30:00Z", "2026-05-01T11:30:00+02:00", "2026-05-01 09:30:00", " 2026-05-01 09:30:00 UTC "),
        *("2026-05-01T09:30:00.123456789Z", "20260501T093000Z"),
        datetime.datetime(2026, 5, 1, 9, 30),
        datetime.datetime(2026, 5, 1, 11, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    ],
    ids=str,
)
def test_times_of_every_kind_are_utc(value: Any) -> None:
    assert utc(value) == MOMENT


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "",
        "soon",
        0,
        -1,
        12,
        10**30,
        1e300,
        float("nan"),
        float("inf"),
        "9" * 19,
        "0001-01-01",
        [],
        {},
        "x" * 10**6,
    ],
    ids=lambda value: str(value)[:12],
)
def test_what_is_no_time_is_none(value: Any) -> None:
    assert utc(value) is None


def test_a_time_without_a_zone_is_of_the_zone_that_is_set() -> None:
    berlin = zone_of("Europe/Berlin")
    assert (
        utc("2026-05-01 11:30", berlin) == MOMENT and utc(datetime.date(2026, 5, 1), berlin) == "2026-04-30T22:00:00Z"
    )
    assert utc(MOMENT, berlin) == MOMENT and utc(SECONDS, berlin) == MOMENT


def test_a_value_that_gives_no_thumb_has_its_reason() -> None:
    scale = scale_of({"Meh": None, 3: False}, 4, 2, node="export")
    assert verdict(scale, " UP ") == (True, None) and verdict(scale, "4.5") == (True, 4.5)
    assert verdict(scale, 3) == (False, 3.0) and verdict(scale, 1) == (False, 1.0)
    for value, reason in (
        (2.5, Reason.NO_THUMB),
        ("meh", Reason.NO_THUMB),
        (None, Reason.NO_THUMB),
        ("", Reason.NO_THUMB),
        ("who", Reason.UNKNOWN_THUMB),
        ([1], Reason.UNKNOWN_THUMB),
        ("nan", Reason.UNKNOWN_THUMB),
        (10**400, Reason.UNKNOWN_THUMB),
    ):
        with pytest.raises(NoThumbError) as refused:
            verdict(scale, value)
        assert refused.value.reason is reason, value


def test_parts_that_are_all_text_are_a_text() -> None:
    assert text_of([{"type": "text", "text": "a"}, "b"]) == "ab"
    assert text_of([{"type": "text", "text": "a"}, {"type": "image_url"}]) is None
    assert text_of([{"type": "thinking", "text": "a"}, {"type": "text", "text": "b"}]) is None, "a thought is no answer"
    assert text_of(["a", "b"]) is None and text_of(["a"]) == "a", "turns or alternatives are not put together"
    assert text_of([]) is None and text_of(7) is None


def test_a_report_is_shown_no_more_than_the_beginning() -> None:
    assert len(shown("secret " * 1000)) < 60 and shown({"a": "secret"}) == "an object"
