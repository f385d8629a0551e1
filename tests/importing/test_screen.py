from typing import Any

import pytest

from kto_lab.importing.screen import Screened, identity, microseconds, screen
from kto_lab.importing.thumbs import LeftOut, Reason
from tests.importing.invented import thumb

CHAT = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"completion": " \n"}, Reason.NO_COMPLETION),
        ({"completion": None}, Reason.NO_COMPLETION),
        ({"prompt": ""}, Reason.NO_PROMPT),
        ({"prompt": []}, Reason.NO_PROMPT),
        ({"completion": "x" * 2000}, Reason.TOO_LARGE),
        ({"prompt": [{"role": "user", "content": "x" * 2000}]}, Reason.TOO_LARGE),
        ({"rater": "x" * 2000}, Reason.TOO_LARGE),
        ({"completion": "half \ud800"}, Reason.NOT_STORABLE),
        ({"prompt": [{"role": "user", "content": "half \udfff"}]}, Reason.NOT_STORABLE),
        ({"model": "\ud800"}, Reason.NOT_STORABLE),
        ({"prompt": [*CHAT, {"role": "assistant", "content": "Ho"}]}, Reason.NO_CHAT),
        ({"prompt": [{"role": "robot", "content": "Ho"}]}, Reason.NO_CHAT),
        ({"prompt": [{"role": "user", "content": None}]}, Reason.NO_CHAT),
        ({"prompt": ["Hi"]}, Reason.NO_CHAT),
    ],
)
def test_what_can_be_no_example_has_a_reason(changes: dict[str, Any], reason: Reason) -> None:
    found = screen(thumb("chats:7", **changes), 1000)
    assert isinstance(found, LeftOut)
    assert (found.where, found.reason) == ("chats:7", reason)


@pytest.mark.parametrize("changes", [{"completion": "nul \0 in it"}, {"prompt": CHAT}, {"completion": "x" * 900}])
def test_what_can_is_as_it_was(changes: dict[str, Any]) -> None:
    given = thumb(**changes)
    found = screen(given, 1000)
    assert isinstance(found, Screened)
    assert found.thumb == given


def test_a_score_that_is_no_number_and_a_time_that_is_none_are_not_kept() -> None:
    found = screen(thumb(score=float("nan"), timestamp="yesterday"), 1000)
    assert isinstance(found, Screened)
    assert (found.thumb.score, found.thumb.timestamp, found.time) == (None, None, None)


def test_a_place_can_always_be_shown() -> None:
    found = screen(thumb("caf\udce9.json[1]"), 1000)
    assert isinstance(found, Screened)
    found.thumb.where.encode()


def test_a_plain_prompt_and_the_same_as_one_message_are_one_prompt() -> None:
    assert identity("Hi", "x") == identity(CHAT, "x")
    assert identity("Hi", "x")[1] != identity("Hi", "y")[1]


def test_times_are_compared_as_times() -> None:
    assert microseconds("1970-01-01T00:00:01Z") == 1_000_000
    assert microseconds("1970-01-01T02:00:00+02:00") == microseconds("1970-01-01T00:00:00") == 0
    early, late = microseconds("2026-05-01T09:30:00Z"), microseconds("2026-05-01T09:30:00.5Z")
    assert early is not None and late is not None and late - early == 500_000
    assert microseconds(None) is microseconds("0000-00-00") is microseconds("") is None
