"""Argilla, Label Studio and votes of the arena: a row may give several thumbs."""

import json
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.importing.thumbs import Reason, Row
from tests.importing.exports.export_cases import read, reasons, thumbs_of

FIXTURES = Path(__file__).parent / "fixtures"


def of(option: str, suffix: str = "json", **changes: Any) -> list[Row]:
    return read(option, path=str(FIXTURES / f"{option}.{suffix}"), **changes)


def test_each_response_of_argilla_is_a_thumb() -> None:
    rows = of("argilla", model_key="model")
    assert [(thumb.rater, thumb.desirable, thumb.model) for thumb in rows[0].thumbs] == [
        ("u-1", True, "mistral"),
        ("u-2", False, "mistral"),
    ]
    assert rows[0].thumbs[1].where == "argilla.json[0] response 2"
    assert reasons(rows) == {
        "argilla.json[0] response 3": Reason.UNKNOWN_THUMB,
        "argilla.json[1]": Reason.NO_THUMB,
        "argilla.json[2]": Reason.NO_COMPLETION,
        "argilla.json[3]": Reason.NO_THUMB,
        "argilla.json[4]": Reason.UNKNOWN_SCHEMA,
    }


def test_argilla_suggestions_chats_and_ratings() -> None:
    suggested = of("argilla", suggestions=True)[1].thumbs[0]
    assert (suggested.signal, suggested.rater, suggested.completion) == ("suggestion", "judge", "Lake Como.")
    assert len(suggested.prompt) == 3
    (rated,) = of("argilla", prompt_field=None, completion_field="chat", question="stars", up_from=4, down_to=2)[
        3
    ].thumbs
    assert (rated.completion, rated.score, rated.signal, rated.desirable) == ("Hello.", 5.0, "rating", True)
    assert [turn["role"] for turn in rated.prompt if isinstance(turn, dict)] == ["system", "user"]


def test_each_annotation_of_label_studio_is_a_thumb() -> None:
    rows = of("label_studio", model_key="model")
    assert [(thumb.rater, thumb.desirable, thumb.timestamp, thumb.model) for thumb in thumbs_of(rows)] == [
        ("10", True, "2026-05-01T09:30:00.728378Z", "mistral"),
        ("11", False, "2026-05-01T09:31:00.728378Z", "mistral"),
    ]
    assert reasons(rows) == {
        "label_studio.json[0].annotations[2]": Reason.NO_THUMB,
        "label_studio.json[1]": Reason.NO_THUMB,
        "label_studio.json[2]": Reason.NO_THUMB,
        "label_studio.json[3]": Reason.UNKNOWN_SCHEMA,
        "label_studio.json[4]": Reason.UNKNOWN_THUMB,
    }
    (stars,) = thumbs_of(of("label_studio", control="stars", up_from=4, down_to=2))
    assert (stars.desirable, stars.score, stars.signal) == (False, 2.0, "rating")


def test_a_vote_becomes_two_thumbs_on_the_last_answers() -> None:
    rows = of("arena", "jsonl")
    won, lost = rows[0].thumbs
    assert (won.completion, won.desirable, won.model, won.signal) == ("The Loire.", True, "vicuna-13b", "vote")
    assert (lost.completion, lost.desirable, lost.model, lost.rater) == ("A river.", False, "koala-13b", "arena_user_1")
    assert won.prompt[1] == {"role": "assistant", "content": "Hello."}, "each side has its own conversation"
    assert lost.prompt[1] == {"role": "assistant", "content": "Yo."}
    assert (won.timestamp or "").startswith("2026-05-01T09:30:00")
    assert reasons(rows) == {
        "arena.jsonl:2": Reason.NO_THUMB,
        "arena.jsonl:5": Reason.UNKNOWN_THUMB,
        "arena.jsonl:6": Reason.NO_ANSWER,
        "arena.jsonl:7": Reason.DUPLICATE_ID,
        "arena.jsonl:8": Reason.UNKNOWN_SCHEMA,
    }


@pytest.mark.parametrize(
    ("ties", "both_bad", "thumbs"),
    [
        ("leave_out", "both_down", [[], [False, False], [False, False]]),
        ("both_up", "leave_out", [[True, True], [], []]),
        ("both_down", "both_down", [[False, False]] * 3),
    ],
)
def test_ties_say_what_the_setting_says(ties: str, both_bad: str, thumbs: list[list[bool]]) -> None:
    rows = of("arena", "jsonl", ties=ties, both_bad=both_bad)
    assert [[thumb.desirable for thumb in row.thumbs] for row in rows[1:4]] == thumbs


def test_a_wrong_setting_is_an_error() -> None:
    with pytest.raises(LabError, match=r"export\.ties"):
        of("arena", "jsonl", ties="both")
    with pytest.raises(LabError, match=r"up_from"):
        of("argilla", up_from=1, down_to=4)


def test_turns_of_an_arena_are_a_conversation_and_a_missing_answer_is_counted(tmp_path: Path) -> None:
    turns = {"prompt": ["Name a fruit.", "Another?"], "response_a": ["Apple.", "Pear."], "response_b": ["No.", None]}
    won = {"id": "1", "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}
    tie = {"id": "2", "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}
    spelled = {name: json.dumps(value) for name, value in turns.items()}
    file = tmp_path / "votes.jsonl"
    file.write_text(
        "".join(json.dumps({**spelled, **row}) + "\n" for row in (won, tie, {"id": "3"} | {"winner_tie": 0}))
    )
    rows = read("arena", path=str(file))
    (thumb,) = thumbs_of(rows)
    assert [turn["content"] for turn in thumb.prompt if isinstance(turn, dict)] == [
        "Name a fruit.",
        "Apple.",
        "Another?",
    ]
    assert (thumb.completion, thumb.desirable) == ("Pear.", True)
    assert reasons(rows) == {
        "votes.jsonl:1": Reason.NO_COMPLETION,
        "votes.jsonl:2": Reason.NO_THUMB,
        "votes.jsonl:3": Reason.NO_THUMB,
    }


@pytest.mark.parametrize(
    ("option", "row", "ignore"),
    [
        (
            "argilla",
            {"fields": {"prompt": "Hi", "response": "Ho", "system": "x"}, "responses": {"label": [{"value": "up"}]}},
            "system",
        ),
        (
            "label_studio",
            {
                "data": {"prompt": "Hi", "response": "Ho", "context": "x"},
                "annotations": [{"result": [{"from_name": "thumb", "value": {"choices": ["Up"]}}]}],
            },
            "context",
        ),
        (
            "chat_log",
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Ho", "images": [1]},
                ],
                "thumb": 1,
            },
            "images",
        ),
        (
            "chat_log",
            {
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
                "thumb": 1,
                "documents": [1],
            },
            "documents",
        ),
    ],
)
def test_what_is_part_of_the_question_is_named_by_every_tool(
    tmp_path: Path, option: str, row: dict[str, Any], ignore: str
) -> None:
    file = tmp_path / "export.json"
    file.write_text(json.dumps([row]))
    with pytest.raises(LabError, match=rf"'{ignore}'.*export\.ignore=\[{ignore}\]"):
        read(option, path=str(file))
    assert len(thumbs_of(read(option, path=str(file), ignore=[ignore]))) == 1
