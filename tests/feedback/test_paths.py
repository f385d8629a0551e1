"""Nested fields by a path, rows in an envelope, and messages under other names."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.file import from_file
from kto_lab.feedback.paths import envelope, from_root, open_row, steps_of, value_at
from kto_lab.importing.exports.chat_log import ChatLogExport
from kto_lab.importing.exports.file import FileExport
from kto_lab.importing.thumbs import Row, Thumb
from tests.feedback.reading import read, settings

ASKED = [{"role": "user", "content": "Say hi."}]


def written(file: Path, value: Any, indent: int | None = None) -> Path:
    file.write_text(json.dumps(value, indent=indent))
    return file


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("input", ("input",)),
        ("input.messages", ("input", "messages")),
        ("annotations[0].value", ("annotations", 0, "value")),
        ("turns[-1]", ("turns", -1)),
        ("data[*].output", ("data", "[*]", "output")),
        ("Was it good? [y/n]", ("Was it good? [y/n]",)),
        ("v1.", ("v1.",)),
    ],
)
def test_a_path_is_keys_and_elements_and_any_other_text_is_one_key(path: str, steps: tuple[str | int, ...]) -> None:
    assert steps_of(path) == steps


def test_what_a_path_leads_to_and_none_where_there_is_nothing() -> None:
    row = {"a": [{"b": 1}, {"b": 2}], "text": '{"c": [3]}'}
    assert value_at(row, steps_of("a[-1].b")) == 2
    assert value_at(row, steps_of("a[*].b")) == [1, 2]
    assert value_at(row, steps_of("text.c[0]")) == 3
    assert [value_at(row, steps_of(path)) for path in ("a[2].b", "a.b", "x.y", "text.c.d")] == [None] * 4


def test_what_lies_beside_a_path_is_a_column_of_its_own() -> None:
    row = {"input": {"messages": ASKED, "tools": ["t"]}, "marks": [{"up": 1, "by": "ann"}, {"up": 0}], "id": 7}
    opened = open_row(row, {path: steps_of(path) for path in ("input.messages", "marks[0].up")})
    assert opened == {
        "input.messages": ASKED,
        "input.tools": ["t"],
        "marks[0].up": 1,
        "marks[0].by": "ann",
        "marks[1]": {"up": 0},
        "id": 7,
    }
    assert open_row({"a.b": 1, "a": {"b": 2}}, {"a.b": ("a", "b")}) == {"a.b": 1, "a": {"b": 2}}
    assert open_row({"a": None}, {"a.b": ("a", "b")}) == {"a": None}
    assert open_row({"a": [{"b": 1}, {"b": 2}]}, {"a[-1].b": ("a", -1, "b")}) == {"a[0]": {"b": 1}, "a[-1].b": 2}


def test_columns_from_the_root_name_the_list_of_rows() -> None:
    columns = {"prompt": "$.data[*].trace.input", "completion": "$.data[*].trace.output", "label": "score"}
    assert from_root(columns, None, node="feedback") == (
        {"prompt": "trace.input", "completion": "trace.output", "label": "score"},
        "data",
    )
    assert from_root({"label": "$[*].up", "rater": "$.who.id"}, None, node="feedback") == (
        {"label": "up", "rater": "who.id"},
        None,
    )
    with pytest.raises(LabError, match=r"feedback\.rows_at \(items\) and feedback\.columns\.label \(data\)"):
        from_root({"label": "$.data[*].up"}, "$.items", node="feedback")


def test_an_envelope_is_one_list_of_objects_with_the_columns() -> None:
    rows = [{"prompt": "p", "completion": "c"}]
    names = ["prompt", "completion"]
    assert envelope({"data": rows, "meta": {"page": 1}}, names) == "data"
    assert envelope({"result": {"items": rows}}, names) == "result.items"
    assert (
        envelope({"rows": [{"row_idx": 0, "row": rows[0]}], "features": [{"name": "prompt"}]}, names) == "rows[*].row"
    )
    assert envelope({"data": rows, "items": rows}, names) is None, "two lists are asked about"
    assert envelope({"prompt": "p", "data": rows}, names) is None, "this is a row"
    assert envelope({"data": [{"q": "p"}]}, names) is None


@pytest.mark.parametrize("group", ["feedback", "export"])
def test_nested_columns_are_read_by_both_readers(tmp_path: Path, group: str) -> None:
    row = {"input": {"messages": ASKED}, "output": {"text": "Hi."}, "annotations": [{"value": "yes"}, {"value": "no"}]}
    file = written(tmp_path / "t.jsonl", row)
    columns = {"prompt": "input.messages", "completion": "output.text", "label": "annotations[0].value"}
    given = settings(f"{group}/file", columns, {"path": str(file)})
    if group == "feedback":
        (got,) = from_file(**given)
        assert (got["prompt"], got["completion"], got["desirable"]) == (ASKED, "Hi.", True)
        return
    rows = [row for row in FileExport(**given).read() if isinstance(row, Row)]
    assert rows == [Row((Thumb("t.jsonl:1", ASKED, "Hi.", True),))]


def test_what_changes_the_prompt_beside_a_path_is_an_error(tmp_path: Path) -> None:
    row = {"input": {"messages": ASKED, "context": "Be brief."}, "completion": "Hi.", "label": True}
    with pytest.raises(LabError, match=r"The column 'input\.context' .*feedback\.ignore=\[input\.context\]"):
        read(written(tmp_path / "t.jsonl", row), {"prompt": "input.messages"})
    assert len(read(tmp_path / "t.jsonl", {"prompt": "input.messages"}, ignore=["input.context"])) == 1


def test_a_path_that_leads_nowhere_names_the_columns_that_there_are(tmp_path: Path) -> None:
    file = written(tmp_path / "t.jsonl", {"input": {"text": "p"}, "completion": "Hi.", "label": True})
    with pytest.raises(LabError, match=r"no column 'input\.messages' .*There are: input\.text, completion, label"):
        read(file, {"prompt": "input.messages"})


THUMBS = [{"prompt": f"p{number}", "completion": "c", "label": number % 2 == 0} for number in range(4)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("value", "more"),
    [
        ({"data": THUMBS, "meta": {"page": 1}}, {}),
        ({"result": {"items": THUMBS, "total": 4}}, {"rows_at": "result.items"}),
        ({"rows": [{"row_idx": 0, "row": row} for row in THUMBS]}, {}),
        ({"data": THUMBS[:2], "new": THUMBS}, {"rows_at": "$.new"}),
    ],
)
def test_the_rows_of_an_envelope(tmp_path: Path, value: Any, more: dict[str, Any], indent: int | None) -> None:
    table = read(written(tmp_path / "page.json", value, indent), **more)
    assert sorted(table["prompt"]) == ["p0", "p1", "p2", "p3"] and sum(table["desirable"]) == 2


def test_pages_of_an_api_one_per_line_with_a_place_for_each_row(tmp_path: Path) -> None:
    file = tmp_path / "pages.jsonl"
    bad = {"prompt": "p9", "completion": "", "label": True}
    pages = [{"data": THUMBS[:2]}, {"data": [*THUMBS[2:], bad]}]
    file.write_text("".join(json.dumps(page) + "\n" for page in pages))
    with pytest.raises(LabError, match=r"pages\.jsonl:2, data\[2\]: the completion is empty"):
        read(file)
    assert len(read(file, bad_rows="drop")) == 4
    file.write_text(json.dumps(pages[0]) + "\n" + json.dumps({"items": []}) + "\n")
    with pytest.raises(
        LabError, match=r"pages\.jsonl:2: there is no list of rows at 'data', only items\. Set feedback\.rows_at"
    ):
        read(file)


def test_columns_from_the_root_of_an_envelope(tmp_path: Path) -> None:
    traces = [{"trace": {"input": row["prompt"], "output": row["completion"]}, "up": row["label"]} for row in THUMBS]
    columns = {"prompt": "$.data[*].trace.input", "completion": "$.data[*].trace.output", "label": "$.data[*].up"}
    table = read(written(tmp_path / "page.json", {"data": traces}), columns)
    assert sorted(table["prompt"]) == ["p0", "p1", "p2", "p3"]


def test_messages_under_the_names_of_other_tools(tmp_path: Path) -> None:
    for ask, answer in (
        ({"from": "human", "value": "Say hi."}, {"from": "gpt", "value": "Hi."}),
        ({"author": "user", "text": "Say hi."}, {"author": "assistant", "text": "Hi."}),
        ({"author": {"role": "user"}, "content": "Say hi."}, {"author": {"role": "assistant"}, "content": "Hi."}),
        ({"role": "prompter", "content": "Say hi."}, {"role": "model", "content": "Hi."}),
    ):
        file = written(tmp_path / "t.jsonl", {"chat": [ask, answer], "label": 1})
        (got,) = read(file, {"prompt": None, "completion": "chat"})
        assert (got["prompt"], got["completion"]) == (ASKED, "Hi.")
        file = written(tmp_path / "t.jsonl", {"prompt": ask, "completion": answer, "label": 1})
        (got,) = read(file)
        assert (got["prompt"], got["completion"]) == (ASKED, "Hi."), "a single message is no list"


def test_an_answer_that_is_json_stays_a_text(tmp_path: Path) -> None:
    for answer in ('{"from": "London", "value": 3}', '[{"from": "London", "text": "Rome"}]', "{'a': 1}"):
        (got,) = read(written(tmp_path / "t.jsonl", {"prompt": "p", "completion": answer, "label": 1}))
        assert got["completion"] == answer


@pytest.mark.parametrize("spelled", [json.dumps, str])
def test_messages_in_a_cell(tmp_path: Path, spelled: Any) -> None:
    row = [spelled(ASKED), spelled([{"role": "assistant", "content": 'It\'s "hi".'}]), "1"]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion", "label"], row])
    pq.write_table(
        pa.Table.from_pylist([dict(zip(["prompt", "completion", "label"], row, strict=True))]), tmp_path / "t.parquet"
    )
    for name in ("t.csv", "t.parquet"):
        (got,) = read(tmp_path / name)
        assert (got["prompt"], got["completion"]) == (ASKED, 'It\'s "hi".')


def test_an_export_of_a_tool_may_be_a_page_of_its_api_and_its_keys_paths(tmp_path: Path) -> None:
    log = {"id": 1, "chat": {"turns": [*ASKED, {"role": "assistant", "content": "Hi."}]}, "mark": {"value": "up"}}
    columns = {"messages": "chat.turns", "thumb": "mark.value"}
    file = written(tmp_path / "page.json", {"data": [log], "next": None})
    rows = [
        row
        for row in ChatLogExport(**settings("export/chat_log", columns, {"path": str(file)})).read()
        if isinstance(row, Row)
    ]
    assert rows == [Row((Thumb("page.json:1, data[0]", ASKED, "Hi.", True),))]


@pytest.mark.parametrize("group", ["feedback", "export"])
def test_a_key_of_messages_that_is_null_in_every_row_loses_nothing(tmp_path: Path, group: str) -> None:
    message = {"content": "x", "name": None, "tool_calls": None, "reasoning_content": None}
    chat = [{**message, "role": "user"}, {**message, "role": "assistant"}]
    pq.write_table(pa.Table.from_pylist([{"chat": chat, "label": up} for up in (True, False)]), tmp_path / "t.parquet")
    given = settings(f"{group}/file", {"prompt": None, "completion": "chat"}, {"path": str(tmp_path / "t.parquet")})
    if group == "feedback":
        assert len(from_file(**given)) == 2
    else:
        assert [len(row.thumbs) for row in FileExport(**given).read() if isinstance(row, Row)] == [1, 1]
