"""Whole messages: calls, reasoning, tools, and what is no text."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.pairs import make_pairs
from kto_lab.feedback.table import build_table, prompt_id
from kto_lab.feedback.table_numbers import fingerprint
from kto_lab.feedback.whole import as_text, whole
from kto_lab.labeling.answers import examples_of
from kto_lab.labeling.command import labelled_table
from kto_lab.models.chat_template import with_chat_template
from kto_lab.models.tokens import Encoder, Lengths
from tests.chat_shapes import SHAPES, shaped
from tests.small_runs import composed, write_jsonl

ASKED = {"role": "user", "content": "Weather in Oslo?"}
TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {}}}
WRITING = "empty thinking written into the last turn"


def calling(city: str, **more: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
    return {"role": "assistant", "content": "", "tool_calls": [call], **more}


def read(path: Path, rows: list[dict[str, Any]], *more: str) -> Dataset:
    write_jsonl(path, rows)
    cfg = composed(["feedback=file", f"feedback.path={path}", "feedback.held_out=0", *more])
    try:
        table = instantiate(cfg.feedback)
    except InstantiationException as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None
    assert isinstance(table, Dataset)
    return table


CONVERSATIONS = ["feedback.columns.prompt=null", "feedback.columns.completion=messages"]


def test_answers_that_differ_in_their_call_alone_differ(tmp_path: Path) -> None:
    rows = [
        {"messages": [ASKED, calling("Oslo")], "label": True},
        {"messages": [ASKED, calling("Rome")], "label": False},
    ]
    table = read(tmp_path / "calls.jsonl", rows, *CONVERSATIONS)
    assert len(set(table["prompt_id"])) == 1 and len(set(table["example_id"])) == 2
    assert table["completion"][:] == ['weather({"city": "Oslo"})', 'weather({"city": "Rome"})']
    assert make_pairs(table, seed=0).tolist() == [[0, 1]]
    encoded = Encoder(shaped(WRITING)).encode_table(table)
    assert encoded.tokens[0].prompt == encoded.tokens[1].prompt
    assert encoded.tokens[0].completion != encoded.tokens[1].completion
    # The same call twice is one answer, whatever its arguments are spelled like.
    spelled = calling("Oslo")
    spelled["tool_calls"][0]["function"]["arguments"] = '{"city":"Oslo"}'
    again = read(tmp_path / "again.jsonl", [rows[0], {**rows[0], "messages": [ASKED, spelled]}], *CONVERSATIONS)
    assert len(set(again["completion"])) == 1 and again["example_id"][0] == table["example_id"][0]


def test_a_conversation_with_tools_is_kept_whole(tmp_path: Path) -> None:
    turns = [
        ASKED,
        calling("Oslo", content=None, reasoning_content="look it up"),
        {"role": "tool", "tool_call_id": "1", "name": "weather", "content": [{"type": "text", "text": "rain"}]},
    ]
    answer = [{"role": "assistant", "content": "It rains.", "reasoning": "so it is"}]
    row = {"prompt": turns, "completion": answer, "label": True, "tools": [TOOL]}
    file = tmp_path / "tools.jsonl"
    with pytest.raises(LabError, match=r"The column 'tools'.*feedback\.columns\.tools=tools"):
        read(file, [row])
    table = read(file, [row], "feedback.columns.tools=tools")
    (prompt,) = table["prompt"]
    assert json.loads(prompt[0]["tools"]) == [TOOL] and prompt[0]["tool_calls"] is None
    assert json.loads(prompt[1]["tool_calls"])[0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert (prompt[1]["content"], prompt[1]["reasoning_content"]) == ("", "look it up")
    assert prompt[2] == {
        **dict.fromkeys(prompt[2]),
        "role": "tool",
        "content": "rain",
        "tool_call_id": "1",
        "name": "weather",
    }
    assert prompt_id(prompt) == table["prompt_id"][0]
    assert json.loads(table["message"][0])["reasoning_content"] == "so it is"
    assert table["completion"][0] == "<think>\nso it is\n</think>\n\nIt rains."
    tokenizer = shaped(WRITING)
    (tokens,) = Encoder(tokenizer, Lengths(2000)).encode_table(table).tokens
    assert "of a city" in tokenizer.decode(tokens.prompt) and "Oslo" in tokenizer.decode(tokens.prompt)
    assert tokenizer.decode(tokens.completion) == "<think>\nso it is\n</think>\n\nIt rains.<|end|>"
    # Other tools, another prompt.
    other = read(file, [{**row, "tools": [{**TOOL, "function": {"name": "time"}}]}], "feedback.columns.tools=tools")
    assert other["prompt_id"] != table["prompt_id"]
    # What is left out by name is left out.
    plain = read(file, [row], "feedback.ignore=[tools,reasoning,reasoning_content,tool_call_id]")
    assert plain["completion"][0] == "It rains." and set(plain["prompt"][0][0]) == {
        "role",
        "content",
        "tool_calls",
        "name",
    }


def test_a_table_of_whole_messages_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"prompt": [ASKED], "completion": calling(city), "desirable": city == "Oslo"} for city in ("Oslo", "Rome")]
    table = build_table(rows, source="test", held_out=0)
    table.to_parquet(tmp_path / "table.parquet")
    again = from_collected(str(tmp_path / "table.parquet"), None)
    assert again.to_list() == table.to_list() and fingerprint(again) == fingerprint(table)


def test_a_table_of_texts_has_no_columns_for_messages() -> None:
    table = build_table([{"prompt": [ASKED], "completion": "Rain.", "desirable": True}], source="test", held_out=0)
    assert not {"message", "place"} & set(table.column_names)
    assert table["prompt"][0] == [ASKED]


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "image_url", "image_url": {"url": "http://x"}}, "an image"),
        ({"type": "input_audio", "input_audio": {}}, "an audio"),
        ({"type": "video"}, "a video"),
        ({"type": "poll"}, "something that is no text"),
    ],
)
@pytest.mark.parametrize("side", ["prompt", "completion"])
def test_what_is_no_text_is_refused_by_name_and_place(tmp_path: Path, side: str, part: dict, named: str) -> None:
    content = [{"type": "text", "text": "What is this?"}, part]
    sides = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "ho"}]}
    sides[side] = [{"role": sides[side][0]["role"], "content": content}]
    rows = [{"prompt": "hi", "completion": "ho", "label": False}, {**sides, "label": True}]
    with pytest.raises(
        LabError, match=rf"media\.jsonl:2: a message holds {named} \(a part of the type '{part['type']}'\)"
    ):
        read(tmp_path / "media.jsonl", rows, "feedback.as_chat=true")
    assert len(read(tmp_path / "media.jsonl", rows, "feedback.as_chat=true", "feedback.bad_rows=drop")) == 1


def test_a_list_of_messages_and_something_else_is_a_malformed_row(tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    rows = [
        {"prompt": [ASKED], "completion": "Rain.", "label": True},
        {"prompt": ["Weather?", ASKED], "completion": "Rain.", "label": True},
    ]
    with pytest.raises(LabError, match=r"mixed\.jsonl:2: a chat message is 'Weather\?'"):
        read(file, rows)
    assert len(read(file, rows, "feedback.bad_rows=drop")) == 1


def test_calls_of_other_forms_are_one_form() -> None:
    wanted = whole(calling("Oslo"), "row 1")
    for other in (
        {"role": "assistant", "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "weather", "args": {"city": "Oslo"}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "name": "weather", "input": {"city": "Oslo"}}]},
    ):
        assert whole(other, "row 1") == wanted
    assert as_text(wanted) == 'weather({"city": "Oslo"})'
    thought = [{"type": "thinking", "thinking": "why"}, {"type": "text", "text": "yes"}]
    assert whole({"role": "assistant", "content": thought}, "")["reasoning_content"] == "why"
    for wrong, match in (
        ({"tool_calls": "weather"}, "must be a list of calls"),
        ({"tool_calls": [{"arguments": {}}]}, "must name a function"),
    ):
        with pytest.raises(LabError, match=f"row 1: .*{match}"):
            whole({"role": "assistant", "content": "", **wrong}, "row 1")


def test_an_answer_that_holds_nothing_but_reasoning_is_empty() -> None:
    row = {"prompt": [ASKED], "completion": {"role": "assistant", "content": "", "reasoning": "why"}, "desirable": True}
    with pytest.raises(LabError, match="row 1: the completion is empty"):
        build_table([row], source="test", held_out=0)


def test_a_conversation_that_the_template_refuses_names_its_place_or_is_dropped(tmp_path: Path) -> None:
    system = {"role": "system", "content": "be brief"}
    rows = [
        {"prompt": [ASKED], "completion": "Rain.", "label": True},
        {"prompt": [system, ASKED], "completion": "Rain.", "label": True},
        {"prompt": [ASKED, ASKED], "completion": "Sun.", "label": False},
    ]
    table = read(tmp_path / "gemma.jsonl", rows)
    with pytest.raises(
        LabError, match=r"gemma\.jsonl:2: .*System role not supported.*lengths\.refused_by_template=drop"
    ):
        Encoder(shaped("turns that alternate")).encode_table(table)
    with pytest.raises(LabError, match=r"gemma\.jsonl:3: .*must alternate"):
        Encoder(shaped("turns that alternate")).encode_table(table.select([0, 2]))
    dropping = Encoder(shaped("turns that alternate"), Lengths(refused_by_template="drop"))
    encoded = dropping.encode_table(table)
    assert (encoded.kept, encoded.refused) == ([0], 2)
    assert dropping.taken(table) == [0] and Encoder(shaped("turn tokens")).taken(table) == [0, 1, 2]
    # An over-long prompt names its place, too.
    with pytest.raises(LabError, match=r"gemma\.jsonl:1: the prompt has"):
        Encoder(with_chat_template(shaped(WRITING), SHAPES[WRITING].template, None), Lengths(12)).encode_table(table)


def test_a_labelled_table_keeps_messages_whole() -> None:
    rows = [{"prompt": [ASKED], "completion": calling(city), "desirable": city == "Oslo"} for city in ("Oslo", "Rome")]
    table = build_table(rows, source="test", held_out=0)
    labelled = labelled_table([], [], examples_of(table), name="rules", source="test")
    for name in ("prompt", "completion", "message"):
        assert labelled[name][:] == table[name][:]
