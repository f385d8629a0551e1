import html
import json
import time
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.importing.exports.open_webui import OpenWebUiExport
from kto_lab.importing.thumbs import Reason
from tests.importing.exports.export_cases import ask, chat_of, feedback, read, reasons, thumbs_of

FIXTURE = Path(__file__).parent / "fixtures" / "open_webui.json"


def written(folder: Path, *rows: Any) -> str:
    file = folder / "feedback.json"
    file.write_text(json.dumps(list(rows)))
    return str(file)


def test_the_thumb_belongs_to_one_turn_and_the_prompt_is_all_before_it() -> None:
    thumb = thumbs_of(read("open_webui", path=str(FIXTURE)))[0]
    assert thumb.prompt == [
        {"role": "system", "content": "Answer in three words at most."},
        {"role": "user", "content": "Name a river in France."},
        {"role": "assistant", "content": "The Loire.", "reasoning_content": "France has the Loire."},
        {"role": "user", "content": "And one in Italy?"},
    ]
    assert (thumb.completion, thumb.desirable, thumb.signal) == ("The Po.", True, "thumb")
    assert (thumb.rater, thumb.model, thumb.score, thumb.finished) == ("u-ann", "llama3.1:8b", 9.0, True)
    assert (thumb.timestamp, thumb.where) == ("2026-05-01T09:31:40Z", "open_webui.json[0]")


def test_every_row_is_taken_or_has_its_reason_and_place() -> None:
    rows = read("open_webui", path=str(FIXTURE))
    assert len(rows) == len(json.loads(FIXTURE.read_text()))
    assert [len(row.thumbs) for row in rows] == [1, 1, 1, 0, 1, *[0] * 9]
    assert reasons(rows) == {
        "open_webui.json[3]": Reason.NO_THUMB,
        "open_webui.json[5]": Reason.DUPLICATE_ID,
        "open_webui.json[6]": Reason.UNKNOWN_THUMB,
        "open_webui.json[7]": Reason.NO_ANSWER,
        "open_webui.json[8]": Reason.NO_ANSWER,
        "open_webui.json[9]": Reason.NO_COMPLETION,
        "open_webui.json[10]": Reason.NO_PROMPT,
        "open_webui.json[11]": Reason.NO_COMPLETION,
        "open_webui.json[12]": Reason.UNKNOWN_SCHEMA,
        "open_webui.json[13]": Reason.UNKNOWN_SCHEMA,
    }
    cut = rows[4].thumbs[0]
    assert not cut.finished and not cut.desirable


def test_what_was_replaced_or_passed_over_is_a_thumb_where_asked_for() -> None:
    asked = {"regenerated": False, "passed_over": False}
    rows = read("open_webui", path=str(FIXTURE), signals=asked)
    told = [(thumb.completion, thumb.desirable, thumb.signal) for row in rows[:2] for thumb in row.thumbs]
    assert told == [
        ("The Po.", True, "thumb"),
        ("The Rhine.", False, "regenerated"),
        ("Soft rain on the roof...", True, "thumb"),
        ("It rains a lot.", False, "passed_over"),
    ]
    assert rows[0].thumbs[0].prompt == rows[0].thumbs[1].prompt
    assert rows[1].thumbs[1].model == "mistral:7b"


def test_an_answer_with_a_thumb_of_its_own_gives_no_signal(tmp_path: Path) -> None:
    old, new = ask("a1", "4"), ask("a2", "5")
    old["annotation"] = {"rating": 1}
    path = written(tmp_path, feedback("f", -1, "a2", chat_of("2+2?", old, new)))
    rows = read("open_webui", path=path, signals={"regenerated": False})
    assert [thumb.completion for thumb in thumbs_of(rows)] == ["5"]


def test_a_mind_that_changed_is_two_thumbs(tmp_path: Path) -> None:
    chat = chat_of("2+2?", ask("a1", "5"))
    path = written(tmp_path, feedback("f", 1, "a1", chat), feedback("f", -1, "a1", chat))
    assert [thumb.desirable for thumb in thumbs_of(read("open_webui", path=path))] == [True, False]


def test_a_chat_that_goes_in_circles_ends(tmp_path: Path) -> None:
    chat = chat_of("2+2?", ask("a1", "5"))
    messages = chat["chat"]["chat"]["history"]["messages"]
    messages["q"]["parentId"] = "a1"
    rows = read("open_webui", path=written(tmp_path, feedback("f", 1, "a1", chat)))
    assert thumbs_of(rows)[0].prompt == [{"role": "user", "content": "2+2?"}]


def test_calls_of_tools_in_an_answer_are_turns_before_it(tmp_path: Path) -> None:
    given = html.escape(json.dumps(json.dumps({"city": "Oslo"})))
    told = html.escape(json.dumps("Rain, 3°"))
    attributes = f'id="c1" name="weather" arguments="{given}" result="{told}" files=""'
    fold = f'<details type="tool_calls" done="true" {attributes}>'
    thought = '<details type="reasoning" done="true" duration="1">\n<summary>Thought</summary>\n&gt; Where?\n</details>'
    text = f"{thought}\n{fold}\n<summary>Tool Executed</summary>\n</details>\nIt rains."
    chat = chat_of("Hi", ask("a1", text))
    (found,) = thumbs_of(read("open_webui", path=written(tmp_path, feedback("f", 1, "a1", chat))))
    call = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}, "id": "c1"}]
    asked, called, result = found.prompt
    assert asked == {"role": "user", "content": "Hi"} and isinstance(called, dict)
    assert json.loads(called["tool_calls"]) == call and called["reasoning_content"] == "Where?"
    assert result == {"role": "tool", "content": "Rain, 3°", "name": "weather", "tool_call_id": "c1"}
    assert found.completion == "It rains."


def test_folds_are_taken_out_of_an_answer_and_a_million_broken_ones_take_no_time(tmp_path: Path) -> None:
    fold = '<details type="reasoning" done="true">\n<summary>Thought</summary>\nhm\n</details>'
    chats = [
        chat_of("Hi", ask("a1", text)) for text in (f"{fold}\nYes.\n\n{fold}\n", '<details type="reasoning"' * 10**5)
    ]
    path = written(tmp_path, *(feedback(f"f{n}", 1, "a1", chat) for n, chat in enumerate(chats)))
    began = time.process_time()
    first, second = (thumb.completion for thumb in thumbs_of(read("open_webui", path=path)))
    assert first == {"role": "assistant", "content": "Yes.", "reasoning_content": "hm\nhm"}
    assert isinstance(second, str) and second.startswith("<details")
    assert time.process_time() - began < 20


def test_a_table_without_chats_is_refused_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "feedback.csv"
    file.write_text("id,rating\n1,1\n")
    with pytest.raises(LabError, match="as JSON"):
        read("open_webui", path=str(file))


def test_a_signal_that_there_is_not_is_an_error() -> None:
    with pytest.raises(LabError, match=r"signals\.regenerated"):
        list(OpenWebUiExport(path=str(FIXTURE), signals={"regenerated": "down"}, cut_at=None).read())  # type: ignore[dict-item]
    with pytest.raises(LabError, match="regenerated, passed_over"):
        list(OpenWebUiExport(path=str(FIXTURE), signals={"liked": True}, cut_at=None).read())
