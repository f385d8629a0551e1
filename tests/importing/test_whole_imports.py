"""Traces of agents: calls, their results, reasoning and tools survive an import, whichever tool they come from."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.exporting import export_feedback
from kto_lab.importing import writing
from kto_lab.importing.command import import_thumbs
from kto_lab.importing.exports.traced import annotated
from kto_lab.importing.exports.values import NoThumbError, answer_of, prompt_of, unread_of
from kto_lab.importing.thumbs import Reason
from kto_lab.judging.answer import Answer
from kto_lab.labeling.answers import File
from tests.importing.exports.export_cases import export_of, reasons, thumbs_of
from tests.importing.exports.export_cases import read as read_export
from tests.importing.invented import configured, imported, rows, thumb
from tests.small_runs import composed

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def called(city: str, identity: str = "c1") -> dict[str, Any]:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": identity, "type": "function", "function": function}],
    }


ASKED = [{"role": "user", "content": "Warmer, Oslo or Rome?"}]
BETWEEN = [called("Oslo"), {"role": "tool", "content": "3 degrees", "tool_call_id": "c1", "name": "weather"}]
ANSWER = {**called("Rome", "c2"), "reasoning_content": "Now the other."}


def langchain(message: dict[str, Any]) -> dict[str, Any]:
    """A message as LangChain serialises it."""
    kwargs = {"type": {"user": "human", "assistant": "ai"}.get(message["role"], message["role"])}
    kwargs |= {"content": message["content"] or "", "additional_kwargs": {}}
    if "tool_calls" in message:
        kwargs["tool_calls"] = [
            {
                "name": "weather",
                "args": json.loads(call["function"]["arguments"]),
                "id": call["id"],
                "type": "tool_call",
            }
            for call in message["tool_calls"]
        ]
    kwargs |= {key: message[key] for key in ("tool_call_id", "name") if key in message}
    if "reasoning_content" in message:
        kwargs["additional_kwargs"] = {"reasoning_content": message["reasoning_content"]}
    return {"lc": 1, "type": "constructor", "id": ["langchain", f"{message['role']}"], "kwargs": kwargs}


def written(file: Path, *found: Any) -> str:
    file.write_text("\n".join(json.dumps(row) for row in found) if file.suffix == ".jsonl" else json.dumps(found))
    return str(file)


def export(folder: Path, option: str) -> Any:
    """An export that holds the one trace, as a tool writes it."""
    turns = [*ASKED, *BETWEEN, ANSWER]
    file = folder / "export.json"
    if option == "chat_log":
        row: Any = {"id": "1", "messages": turns, "tools": TOOLS, "thumb": 1}
        return export_of(option, path=written(file, row))
    if option == "arena":
        row = {"model_a": "a", "model_b": "b", "winner": "model_a", "conversation_a": turns, "conversation_b": turns}
        row["conversation_b"] = [*ASKED, *BETWEEN, {"role": "assistant", "content": "Oslo."}]
        return export_of(option, path=written(file, row))
    if option == "argilla":
        fields = {"prompt": [*ASKED, *BETWEEN], "response": [ANSWER], "tools": TOOLS}
        return export_of(option, path=written(file, {"fields": fields, "responses": {"label": [{"value": "up"}]}}))
    if option == "label_studio":
        result = [{"from_name": "thumb", "value": {"choices": ["Up"]}}]
        data = {"prompt": [*ASKED, *BETWEEN], "response": ANSWER, "tools": TOOLS}
        return export_of(option, path=written(file, {"data": data, "annotations": [{"result": result}]}))
    if option == "langfuse":
        score = {"id": "s", "name": "user-feedback", "value": 1, "data_type": "BOOLEAN", "trace_id": "t"}
        trace = {"id": "t", "input": {"messages": [*ASKED, *BETWEEN], "tools": TOOLS}, "output": ANSWER}
        traces, scores = written(folder / "traces.jsonl", trace), written(folder / "scores.jsonl", score)
        return export_of(option, scores=scores, traces=traces, observations=None)
    if option == "langsmith":
        feedback = {"id": "f", "run_id": "r", "key": "user_feedback", "score": 1}
        # What an agent's graph gives: all turns since the beginning.
        run = {"id": "r", "inputs": {"messages": [[langchain(one) for one in ASKED]]}}
        run |= {"outputs": {"messages": [langchain(one) for one in turns]}}
        run["extra"] = json.dumps({"invocation_params": {"tools": TOOLS}})
        runs = written(folder / "runs.jsonl", run)
        return export_of(option, feedback=written(folder / "feedback.jsonl", feedback), runs=runs)
    row = {"prompt": [*ASKED, *BETWEEN], "completion": [ANSWER], "label": True, "tools": TOOLS}
    return export_of("file", path=written(folder / "thumbs.jsonl", row), columns={"tools": "tools"})


OPTIONS = ("chat_log", "arena", "argilla", "label_studio", "langfuse", "langsmith", "file")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_trace_is_whole_in_the_table(tmp_path: Path, option: str) -> None:
    import_thumbs(export(tmp_path, option), tmp_path / "table.parquet", configured(()), source="x")
    row = from_collected(str(tmp_path / "table.parquet"), None)[0]
    asked, call, result = row["prompt"]
    wanted = {"function": {"arguments": {"city": "Oslo"}, "name": "weather"}, "id": "c1", "type": "function"}
    assert asked["content"] == ASKED[0]["content"] and json.loads(call["tool_calls"]) == [wanted]
    assert (result["role"], result["content"], result["tool_call_id"]) == ("tool", "3 degrees", "c1")
    assert option == "arena" or json.loads(asked["tools"]) == TOOLS
    message = json.loads(row["message"])
    assert json.loads(message["tool_calls"])[0]["function"]["arguments"] == {"city": "Rome"}
    assert message["reasoning_content"] == "Now the other."
    assert row["completion"] == '<think>\nNow the other.\n</think>\n\nweather({"city": "Rome"})'


def test_a_batch_of_plain_messages_has_room_for_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BATCH", 1)
    whole = prompt_of([*ASKED, *BETWEEN], tools=TOOLS)
    given = [thumb("a:1", prompt=whole, completion=message("Rome")), thumb("a:2", prompt=prompt_of(ASKED))]
    _, table = imported(tmp_path, rows(*given))
    found = {row["where"]: row for row in table}
    assert [found["a:1"]["prompt"][0]["tools"], found["a:2"]["prompt"][0]["tools"]] == [whole[0]["tools"], None]
    assert found["a:2"]["message"] is None and found["a:2"]["completion"] == "Two"


def test_an_agents_turns_since_the_question_follow_it(tmp_path: Path) -> None:
    (tmp_path / "since").mkdir()
    found = []
    for folder, turns in ((tmp_path, [*ASKED, *BETWEEN, ANSWER]), (tmp_path / "since", [*BETWEEN, ANSWER])):
        feedback = {"id": "f", "run_id": "r", "key": "user_feedback", "score": 1}
        runs = written(
            folder / "runs.jsonl", {"id": "r", "inputs": {"messages": ASKED}, "outputs": {"messages": turns}}
        )
        given = {"feedback": written(folder / "feedback.jsonl", feedback), "runs": runs}
        found += [(one.prompt, one.completion) for one in thumbs_of(read_export("langsmith", **given))]
    assert found[0] == found[1] and [turn["role"] for turn in found[0][0]] == ["user", "assistant", "tool"]  # type: ignore[index]


def test_an_answer_that_is_json_is_text_and_tools_are_found_beside_the_messages() -> None:
    unread = unread_of(())
    prompt, answer = annotated({"input": {"messages": ASKED, "tools": json.dumps(TOOLS)}}, '{"text": "4"}', unread)
    assert answer == '{"text": "4"}' and json.loads(prompt[0]["tools"]) == TOOLS
    _, answer = annotated(ASKED, json.dumps([ANSWER]), unread)
    assert isinstance(answer, dict) and answer["reasoning_content"] == "Now the other."
    prompt, answer = annotated(ASKED, [*BETWEEN, {"role": "assistant", "content": "Rome."}], unread)
    assert [turn["role"] for turn in prompt] == ["user", "assistant", "tool"] and answer == "Rome."


def test_images_are_refused_by_name_and_counted(tmp_path: Path) -> None:
    picture = {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {}}]}
    says = {"role": "assistant", "content": "A cat."}
    talks = [{"id": str(n), "messages": [picture, says] if n else [*ASKED, says], "thumb": 1} for n in range(3)]
    given = {"path": written(tmp_path / "chats.jsonl", *talks)}
    assert reasons(read_export("chat_log", **given)) == dict.fromkeys(
        ("chats.jsonl:2", "chats.jsonl:3"), Reason.NOT_TEXT
    )
    report = import_thumbs(export_of("chat_log", **given), tmp_path / "t.parquet", configured(()), source="x")
    (line,) = report.reasons
    assert (line.count, line.reason) == (2, Reason.NOT_TEXT)
    assert "chats.jsonl:2" in line.places[0] and "turn 1: a message holds an image" in line.places[0]
    with pytest.raises(NoThumbError, match="holds an audio"):
        answer_of({"role": "assistant", "content": [{"type": "input_audio"}]})


def test_parts_of_a_message_are_read_once() -> None:
    # LangChain keeps Anthropic's calls in the content and beside it.
    parts = [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
    ]
    beside = [{"id": "c1", "name": "weather", "args": {"city": "Oslo"}}]
    found = [answer_of({"role": "ai", "content": parts, **more}) for more in ({}, {"tool_calls": beside})]
    assert found[0] == found[1]
    assert isinstance(found[0], dict) and found[0]["reasoning_content"] == "Hm." and found[0]["content"] == "Looking."
    with pytest.raises(NoThumbError, match="tools are"):
        prompt_of(ASKED, tools=[7])


def message(city: str, identity: str = "c1", reasoning: str = "") -> dict[str, Any]:
    found = answer_of({**called(city, identity), "reasoning_content": reasoning})
    assert isinstance(found, dict)
    return found


def test_answers_that_differ_in_a_call_alone_differ_and_ids_make_no_difference(tmp_path: Path) -> None:
    long = "First the weather has to be known, and then all else follows from it. " * 20
    oslo, rome, again = message("Oslo", "c1", long), message("Rome", "c1", long), message("Oslo", "c9", long)
    given = rows(*(thumb(f"a:{n}", completion=one, rater="ann") for n, one in enumerate((oslo, rome, again))))
    report, table = imported(tmp_path, given, "duplicates.near=drop", "duplicates.near_threshold=0.7")
    assert sorted(json.loads(row["message"])["tool_calls"][40:] for row in table) == sorted(
        one["tool_calls"][40:] for one in (oslo, rome)
    )
    assert report.near is not None and report.near.same == 0


def test_personal_data_is_found_in_calls_results_reasoning_and_tools(tmp_path: Path) -> None:
    function = {"name": "mail", "arguments": {"to": "ann@example.com", "phone": 4915112345678, "n": 3, "yes": True}}
    told = {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    result = {"role": "tool", "content": "Sent to bob@example.com", "tool_call_id": "c1"}
    tools = [{"name": "mail", "description": "ask\ncat@example.com"}]
    prompt = prompt_of([*ASKED, told, result], tools=tools)
    answer = answer_of({"role": "assistant", "content": "Done.", "reasoning_content": "dan@example.com has it."})
    given = rows(thumb(prompt=prompt, completion=answer))
    report, _ = imported(tmp_path, given, "personal_data=report")
    finds = {kind["kind"]: kind["finds"] for kind in report.personal or ()}
    assert finds["EMAIL"] == 4
    _, (row,) = imported(tmp_path, given, "personal_data=redact", "phone_region=DE")
    assert "example.com" not in json.dumps(row)
    arguments = json.loads(row["prompt"][1]["tool_calls"])[0]["function"]["arguments"]
    assert arguments["to"] == "[EMAIL]" and (arguments["n"], arguments["yes"]) == (3, True)
    assert json.loads(row["prompt"][0]["tools"])[0]["description"] == "ask\n[EMAIL]"


def test_an_imported_trace_is_exported_and_imported_again(tmp_path: Path) -> None:
    import_thumbs(export(tmp_path, "file"), tmp_path / "table.parquet", configured(()), source="x")
    given = ["feedback=collected", f"feedback.path={tmp_path / 'table.parquet'}", f"output={tmp_path / 'out'}"]
    export_feedback(composed([*given, "format=trl"], name="export_table"))
    (file,) = (tmp_path / "out").iterdir()
    again = export_of("file", path=str(file), columns={"tools": "tools"}, ignore=["group", "split"])
    import_thumbs(again, tmp_path / "again.parquet", configured(()), source="x")
    first, second = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist()[0] for name in ("table", "again"))
    assert all(first[key] == second[key] for key in ("prompt", "prompt_id", "completion", "message"))


def test_answers_to_label_are_whole(tmp_path: Path) -> None:
    row = {"prompt": [*ASKED, *BETWEEN], "completion": [ANSWER], "tools": TOOLS}
    path = written(tmp_path / "answers.jsonl", row)
    file: File = export_answers(path)
    (answer,) = file.read([])
    assert isinstance(answer, Answer) and isinstance(answer.said, dict)
    assert json.loads(answer.said["tool_calls"])[0]["function"]["arguments"] == {"city": "Rome"}
    assert "tools" in answer.prompt[0] and 'weather({"city": "Oslo"})' in answer.prompt_text
    pictures = {**row, "prompt": [{"role": "user", "content": [{"type": "image"}]}]}
    with pytest.raises(LabError, match=r"pictures.jsonl:1: .* an image"):
        export_answers(written(tmp_path / "pictures.jsonl", pictures)).read([])


def export_answers(path: str) -> File:
    from hydra.utils import instantiate

    given = ["answers=file", f"answers.path={path}", "answers.columns.tools=tools"]
    cfg = composed([*given, "output=none", "labeler=rules"], name="label")
    file: File = instantiate(cfg.answers)
    return file
