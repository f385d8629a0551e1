import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_lab.importing.personal import Kind, find, pseudonym, redacted
from tests.importing.invented import imported, rows, thumb

KEY = "ghp_" + "aB3dE5gH7jK9" * 3
TEXT = (
    "Mail jo.doe@example.co.uk or call +1 415-555-2671. Card 4111 1111 1111 1111, account DE89 3704 0044 0532 0130 00 "
    f"thanks. The token {KEY} and postgres://bob:secret1@db.example.com/x are mine."
)


def test_each_kind_is_found_and_nothing_else_is_touched() -> None:
    assert redacted(TEXT, find(TEXT, None)) == (
        "Mail [EMAIL] or call [PHONE]. Card [CARD], account [IBAN] thanks. The token [KEY] and "
        "postgres://bob:[KEY]@db.example.com/x are mine."
    )


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112 has a wrong sum, and so has DE88 3704 0044 0532 0130 00.",
        "1234567 + 7654321 = 8888888, pi is 3.14159265358979",
        "+1 2 3 4 5 6 7 8 is no number of any plan",
        "@dataclass, x @ y.T, react@18.2.0",
        "",
    ],
)
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert find(text, "US") == []


def test_numbers_without_a_country_need_one() -> None:
    text = "Call (415) 555-2671."
    assert find(text, None) == []
    assert [one.kind for one in find(text, "US")] == [Kind.PHONE]


def test_a_private_key_goes_whole() -> None:
    text = "It is\n-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIB\nAAKC==\n-----END RSA PRIVATE KEY-----\nright?"
    assert redacted(text, find(text, None)) == "It is\n[KEY]\nright?"
    cut = "-----BEGIN " + "PRIVATE KEY-----\nMIIEpAIBAAKC" + "x" * 500
    assert redacted(cut, find(cut, None)) == "[KEY]"


def test_a_key_far_into_a_long_line_is_found_whole() -> None:
    for before in (700, 760, 990, 1749, 1760):
        text = "x " * (before // 2) + KEY + " y" * 1000
        assert redacted(text, find(text, None)).split("[KEY]")[1].startswith(" y")


@given(st.text(st.sampled_from("a1@.-+: sk/eyJBEGIN"), max_size=300))
def test_finds_are_in_order_apart_and_within_the_text(text: str) -> None:
    found = find(text, "DE")
    ends = [0, *(place for one in found for place in (one.start, one.end)), len(text)]
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    "part", ["a@", "4 ", "://:a", "sk-", "xoxb-1-", "+1 415 555 2671 ", "-----BEGIN PRIVATE KEY-----", "DE12 "]
)
def test_hostile_texts_take_a_time_in_proportion(part: str) -> None:
    """Without pieces and bounds some of these take minutes; the suite's own limit would stop them."""
    find(part * (20_000 // len(part)), "US")


def test_reported_by_counts_and_places_and_never_by_value(tmp_path: Path) -> None:
    given = rows(thumb("a:1", completion=TEXT), thumb("a:2"), thumb("a:3", prompt=TEXT, rater="jo@example.org"))
    report, table = imported(tmp_path, given)
    assert report.personal is not None
    counts = {kind["kind"]: (kind["finds"], kind["thumbs"], kind["places"]) for kind in report.personal}
    assert counts["KEY"] == (4, 2, ["a:1", "a:3"])
    assert counts["EMAIL"] == counts["CARD"] == counts["IBAN"] == counts["PHONE"] == (2, 2, ["a:1", "a:3"])
    assert TEXT in {row["completion"] for row in table}, "a report changes nothing"
    for file in (tmp_path / "thumbs.import_report.html", tmp_path / "thumbs.import_report.json"):
        assert not any(value in file.read_text() for value in ("jo@", "jo.doe", "4111", KEY, "555-2671", "secret1"))


def test_redaction_takes_it_out_of_texts_and_names_and_joins_what_was_told_apart_by_it(tmp_path: Path) -> None:
    given = rows(
        thumb("a:1", prompt="I am a@b.org. Who?", rater="x@y.org"),
        thumb("a:2", prompt=[{"role": "user", "content": "I am c@d.org. Who?"}], rater="x@y.org"),
        thumb("a:3", prompt="I am e@f.org. Who?", rater="someone"),
    )
    report, table = imported(tmp_path, given, "personal_data=redact")
    assert report.prompts == 1
    assert json.dumps(table).count("@") == 0
    assert {row["rater"] for row in table} == {pseudonym("x@y.org", None), "someone"}
    assert [row["prompt"][0]["content"] for row in table] == ["I am [EMAIL]. Who?"] * len(table)


def test_what_is_not_looked_for_is_not_reported(tmp_path: Path) -> None:
    report, table = imported(tmp_path, rows(thumb(completion=TEXT)), "personal_data=ignore")
    assert report.personal is None and table[0]["completion"] == TEXT
