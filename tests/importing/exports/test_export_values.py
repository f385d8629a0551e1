from typing import Any

import pytest

from kto_lab.feedback.messages import text_of
from kto_lab.feedback.scale import scale_of
from kto_lab.importing.exports.values import NoThumbError, identity_of, shown, verdict
from kto_lab.importing.thumbs import Reason


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


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *(
            ("ann", "ann"),
            (7, "7"),
            (7.0, "7.0"),
            ({"$oid": "65f1"}, "65f1"),
            ({"id": 7}, '{"id": 7}'),
            (b"\x01", "01"),
        ),
        *((None, None), ("", None), (True, None), (float("nan"), None), (float("inf"), None), ({}, None), ([], None)),
    ],
)
def test_what_identifies_is_an_identity(value: Any, name: str | None) -> None:
    assert identity_of(value) == name


def test_long_identities_stay_apart() -> None:
    for first, second in (
        ("x" * 300 + "1", "x" * 300 + "2"),
        (10**5000, 10**5000 + 1),
        ("\ud800" * 300, "\ud801" * 300),
    ):
        one, other = identity_of(first), identity_of(second)
        assert one is not None and other is not None and one != other and len(one) <= 256
