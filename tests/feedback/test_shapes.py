"""Files as people bring them, each read with at most two keys. What is right for each stands in the table."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.file import from_file
from kto_lab.feedback.pairs import given_pairs, make_pairs
from tests.feedback.reading import settings

SHAPES = Path(__file__).parent / "fixtures/shapes"
TIMED = {"columns.rater": "user", "columns.timestamp": "created"}

# The file, the keys that are set, thumbs up, thumbs down, prompts.
RIGHT: list[tuple[str, dict[str, Any], int, int, int]] = [
    ("list.json", {}, 6, 6, 6),
    ("envelope.json", {}, 6, 0, 6),
    ("envelope.json", {"rows_at": "data"}, 6, 0, 6),
    ("words.jsonl", {}, 6, 6, 6),
    ("lines.jsonl.gz", {}, 6, 6, 6),
    ("semicolons.csv", {}, 6, 6, 6),
    ("tabs.tsv", {}, 6, 6, 6),
    ("utf16.csv", {}, 6, 6, 6),
    ("windows.csv", {"encoding": "cp1252"}, 1, 1, 1),
    ("shards", {}, 6, 6, 6),
    ("shards/*.jsonl", {}, 6, 6, 6),
    ("sharegpt.jsonl", {"format": "sharegpt"}, 6, 6, 6),
    ("sharegpt.jsonl", {"columns.label": "kto_tag", "format": "sharegpt"}, 6, 6, 6),
    ("openai_preference.jsonl", {"format": "openai"}, 6, 6, 6),
    ("alpaca_input.jsonl", {"format": "alpaca"}, 2, 0, 2),
    ("system_column.jsonl", {"columns.system": "system", "as_chat": True}, 1, 1, 2),
    ("ranked_pairs.jsonl", {"format": "trl"}, 3, 3, 1),
    ("turn_lists.jsonl", {"format": "arena"}, 1, 0, 1),
    ("stars.jsonl", {"format": "stars"}, 6, 6, 6),
    ("ratings_from_zero.jsonl", {"format": "helpsteer"}, 6, 6, 6),
    ("ids_without_raters.jsonl", {}, 3, 1, 1),
    ("tool_calls.jsonl", {"columns.prompt": None, "columns.completion": "messages"}, 1, 1, 1),
    ("tool_calls.jsonl", {"format": "ms_swift"}, 1, 1, 1),
    ("times_iso.jsonl", TIMED, 1, 1, 1),
    ("times_german.jsonl", TIMED, 1, 1, 1),
    ("times_us.jsonl", TIMED, 1, 1, 1),
    ("times_rfc1123.jsonl", TIMED, 1, 1, 1),
    ("times_javascript.jsonl", TIMED, 1, 1, 1),
    ("times_milliseconds.jsonl", TIMED, 1, 1, 1),
    ("times_mongo.jsonl", TIMED, 1, 1, 1),
]


def read(name: str, keys: dict[str, Any]) -> Dataset:
    given = settings("feedback/file")
    for key, value in keys.items():
        node, _, field = key.rpartition(".")
        (given[node] if node else given)[field] = value
    return from_file(**{**given, "path": str(SHAPES / name), "held_out": 0.0})


@pytest.mark.parametrize(("name", "keys", "up", "down", "prompts"), RIGHT)
def test_a_real_shape_is_read_with_two_keys_at_most(
    name: str, keys: dict[str, Any], up: int, down: int, prompts: int
) -> None:
    assert len(keys) <= 2
    table = read(name, keys)
    assert (sum(table["desirable"]), len(table) - sum(table["desirable"])) == (up, down)
    assert len(set(table["prompt_id"])) == prompts


def test_every_shape_is_here() -> None:
    asked = {"times_ambiguous.jsonl", "times_unreadable.jsonl"}
    assert {name for name, *_ in RIGHT if "*" not in name} | asked == {file.name for file in SHAPES.iterdir()}
    assert len({name for name, *_ in RIGHT}) >= 14


def test_the_newest_thumb_is_the_one_up_however_its_time_is_written() -> None:
    for name, keys, *_ in RIGHT:
        if keys is TIMED:
            newest = max(read(name, keys), key=lambda row: row["timestamp"])
            assert newest["desirable"] and newest["timestamp"].startswith("2026-03-15"), name


def test_pairs_are_those_of_the_file_and_an_answer_may_win_and_lose() -> None:
    table = read("ranked_pairs.jsonl", {"format": "trl"})
    texts, pairs = table["completion"][:], make_pairs(table, seed=0)
    assert sorted((texts[up], texts[down]) for up, down in pairs) == [
        ("Apple.", "A stone."),
        ("Pear.", "A hat."),
        ("Pear.", "Apple."),
    ]
    assert len(given_pairs(table).pairs) == 3
    apple = [row["desirable"] for row in table if row["completion"] == "Apple."]
    assert sorted(apple) == [False, True]


def test_an_arenas_lists_are_turns_and_a_missing_one_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    (got,) = read("turn_lists.jsonl", {"format": "arena"})
    assert [message["content"] for message in got["prompt"]] == ["Name a fruit.", "Apple.", "Another?"]
    assert got["completion"] == "Pear." and got["desirable"]
    assert "1 answers are missing" in capsys.readouterr().out


def test_letters_of_a_code_page_are_whole() -> None:
    table = read("windows.csv", {"encoding": "cp1252"})
    assert set(table["prompt"]) == {"Nenne einen Fluß."} and set(table["completion"]) == {"Die Donau – schön.", "Öl."}


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "stars.jsonl",
            {"columns.label": "rating"},
            r"1 \(6\), 3 \(6\), 5 \(6\).*feedback\.up_from=5 feedback\.down_to=1",
        ),
        ("ratings_from_zero.jsonl", {}, r"This looks like .*feedback\.format=helpsteer"),
        ("stars.jsonl", {}, r"This looks like .*feedback\.format=stars"),
        ("sharegpt.jsonl", {}, r"This looks like ShareGPT.*feedback\.format=sharegpt"),
        ("openai_preference.jsonl", {}, r"This looks like OpenAI.*feedback\.format=openai"),
        ("alpaca_input.jsonl", {}, r"This looks like Alpaca.*feedback\.format=alpaca"),
        ("turn_lists.jsonl", {}, r"This looks like votes of an arena: feedback\.format=arena"),
        ("ranked_pairs.jsonl", {}, r"This looks like TRL: feedback\.format=trl"),
        ("system_column.jsonl", {}, r"The column 'system' .*feedback\.columns\.system=system"),
        ("windows.csv", {}, r"feedback\.encoding"),
        ("times_ambiguous.jsonl", TIMED, r"feedback\.day_first"),
        ("times_unreadable.jsonl", TIMED, r"times_unreadable\.jsonl:1: the timestamp is 'yesterday'"),
    ],
)
def test_what_cannot_be_known_is_asked_by_the_key_to_set(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        read(name, keys)
