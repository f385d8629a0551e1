import json
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.importing.thumbs import Reason, Row
from tests.importing.exports.export_cases import read, reasons, thumbs_of

FIXTURES = Path(__file__).parent / "fixtures"
ASKED = {"regenerated": False, "copied": True, "edited": False, "abandoned": False}


def chat_log(**changes: Any) -> list[Row]:
    return read("chat_log", **{"path": str(FIXTURES / "chat_log.jsonl"), **changes})


def test_events_of_a_conversation_are_on_the_turns_that_they_name() -> None:
    rows = chat_log(signals=ASKED)
    regenerated, thumb, copied = rows[0].thumbs
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]
    assert (regenerated.prompt, regenerated.completion, regenerated.desirable) == (asked, "The Rhine.", False)
    assert (copied.prompt, copied.completion, copied.desirable) == (asked, "The Loire.", True)
    assert (regenerated.signal, thumb.signal, copied.signal) == ("regenerated", "thumb", "copied")
    # The answer that was replaced is no part of a later prompt.
    assert [turn["content"] for turn in thumb.prompt if isinstance(turn, dict)] == [
        "Be brief.",
        "Name a river.",
        "The Loire.",
        "And a lake?",
    ]
    assert (thumb.completion, thumb.desirable, thumb.model, thumb.rater) == ("Como.", True, "gpt-4o-mini", "u-ann")
    assert (thumb.timestamp, copied.timestamp) == ("2026-05-01T09:20:00Z", "2026-05-01T09:16:40Z")


def test_signals_say_nothing_until_they_are_asked_for() -> None:
    rows = chat_log()
    assert [thumb.signal for thumb in thumbs_of(rows)] == ["thumb"] * 3
    assert reasons(rows) == {
        "chat_log.jsonl:1.events[0]": Reason.NO_THUMB,
        "chat_log.jsonl:1.events[2]": Reason.NO_THUMB,
        "chat_log.jsonl:3": Reason.NO_THUMB,
        "chat_log.jsonl:4.events[1]": Reason.NO_THUMB,
        "chat_log.jsonl:4.events[2]": Reason.UNKNOWN_THUMB,
        "chat_log.jsonl:4.events[3]": Reason.NO_ANSWER,
        "chat_log.jsonl:4.events[4]": Reason.NO_ANSWER,
        "chat_log.jsonl:4.events[5]": Reason.UNREADABLE,
    }


def test_a_thumb_in_the_row_is_on_the_last_answer_and_an_edit_on_what_was_edited() -> None:
    rows = chat_log(signals=ASKED)
    (row_thumb,) = rows[1].thumbs
    assert (row_thumb.completion, row_thumb.desirable, row_thumb.where) == ("Hello.", False, "chat_log.jsonl:2")
    assert row_thumb.timestamp == "2026-05-01T09:30:00Z"
    liked, edited = rows[3].thumbs
    assert (liked.completion, liked.desirable) == ("Hello, edited.", True)
    assert (edited.completion, edited.desirable, edited.signal) == ("Hello.", False, "edited")


def test_a_stream_of_events_finds_its_conversations() -> None:
    rows = chat_log(events=str(FIXTURES / "chat_log_events.jsonl"), signals=ASKED)
    first, second = thumbs_of(rows)
    assert (first.completion, first.desirable, first.rater, first.where) == (
        "Como.",
        False,
        "u-eve",
        "chat_log_events.jsonl:1",
    )
    assert (second.completion, second.desirable, second.signal) == ("Hello.", False, "abandoned")
    assert len(rows) == 6 and reasons(rows) == {
        "chat_log_events.jsonl:2": Reason.DUPLICATE_ID,
        "chat_log_events.jsonl:4": Reason.NO_ANSWER,
        "chat_log_events.jsonl:5": Reason.NO_THUMB,
        "chat_log_events.jsonl:6": Reason.UNKNOWN_THUMB,
    }


@pytest.mark.parametrize("apart", [False, True])
def test_times_of_events_follow_the_order_that_one_of_them_decides(tmp_path: Path, apart: bool) -> None:
    talk = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}]
    events = [
        {"conversation_id": "c", "user_id": day, "type": "up", "timestamp": f"{day}/2026"} for day in ("04/03", "15/03")
    ]
    conversation = {"id": "c", "messages": talk, "created": "03/04/2026"}
    (tmp_path / "log.jsonl").write_text(json.dumps({**conversation, "events": events}) + "\n")
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    found = thumbs_of(
        chat_log(
            path=str(tmp_path / "log.jsonl"), events=str(tmp_path / "events.jsonl") if apart else None, day_first=True
        )
    )
    wanted = ["2026-03-04T00:00:00Z", "2026-03-15T00:00:00Z"]
    assert [thumb.timestamp for thumb in found] == wanted
    changes = {"columns": {"timestamp": None}, "events": str(tmp_path / "events.jsonl") if apart else None}
    assert [thumb.timestamp for thumb in thumbs_of(chat_log(path=str(tmp_path / "log.jsonl"), **changes))] == wanted
    with pytest.raises(LabError, match=r"export\.columns\.timestamp.*03/04/2026"):
        chat_log(path=str(tmp_path / "log.jsonl"))


def test_names_are_settings(tmp_path: Path) -> None:
    row = {"turns": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], "good": "ja"}
    (tmp_path / "log.jsonl").write_text(json.dumps(row))
    columns = {"messages": "turns", "thumb": "good"}
    (thumb,) = thumbs_of(chat_log(path=str(tmp_path / "log.jsonl"), columns=columns, labels={"ja": True}))
    assert thumb.desirable and thumb.completion == "Ho"
    with pytest.raises(LabError, match="no field 'turns'"):
        chat_log(columns={"turns": "messages"})
    with pytest.raises(LabError, match=r"signals\.copied"):
        chat_log(signals={"copied": 1})
