"""`feedback=file` and `export=file` read one file alike, and what one asks the other asks, too."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kto_lab.errors import LabError
from kto_lab.feedback.file import from_file
from kto_lab.feedback.whole import as_text
from kto_lab.importing.command import import_thumbs
from kto_lab.importing.exports.file import FileExport
from kto_lab.importing.thumbs import Note, Row
from tests.importing.invented import configured

CONF = Path(__file__).parents[2] / "conf"
READERS = ("feedback", "export")
USER = {"role": "user", "content": "Say hi."}


def settings(group: str, columns: Mapping[str, str | None], changes: Mapping[str, Any]) -> dict[str, Any]:
    given = yaml.safe_load((CONF / group / "file.yaml").read_text())
    given.pop("_target_")
    return {**given, "columns": {**given["columns"], **columns}, **changes}


def read(
    reader: str, file: Path, columns: Mapping[str, str | None] | None = None, **changes: Any
) -> list[tuple[Any, str, bool, bool]]:
    """Prompt, completion, label and whether it is finished, of each example that a reader makes of a file."""
    given = settings(reader, columns or {}, {**changes, "path": str(file)})
    if reader == "feedback":
        table = from_file(**{**given, "as_chat": "system" in (columns or {}), "held_out": 0.0, "bad_rows": "drop"})
        names = ("completion", "desirable", "finished")
        return sorted(zip(map(known, table["prompt"][:]), *(table[name][:] for name in names), strict=True), key=str)
    rows = [row for row in FileExport(**given).read() if isinstance(row, Row)]
    return sorted(
        ((one.prompt, said(one.completion), one.desirable, one.finished) for row in rows for one in row.thumbs), key=str
    )


def known(prompt: Any) -> Any:
    """A prompt without the empty keys that a column has for its other messages."""
    return prompt if isinstance(prompt, str) else [{k: v for k, v in one.items() if v is not None} for one in prompt]


def said(completion: Any) -> str:
    return completion if isinstance(completion, str) else as_text(completion)


def both(file: Path, columns: Mapping[str, str | None] | None = None, **changes: Any) -> list[Any]:
    """What both readers make of a file, which is one thing."""
    first, second = (read(reader, file, columns, **changes) for reader in READERS)
    assert first == second
    return first


def asked(file: Path, *words: str, columns: Mapping[str, str | None] | None = None, **changes: Any) -> None:
    """See that both readers ask the same, each by its own keys."""
    said = []
    for reader in READERS:
        with pytest.raises(LabError) as refused:
            read(reader, file, columns, **changes)
        said.append(str(refused.value).replace(str(file), file.name).replace(f"{reader}.", "KEY."))
    assert said[0] == said[1]
    for word in words:
        assert word in said[0], said[0]


def jsonl(folder: Path, *rows: Mapping[str, Any]) -> Path:
    file = folder / "thumbs.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def thumb(label: Any, completion: str = "Hi.", **more: Any) -> dict[str, Any]:
    return {"prompt": "Say hi.", "completion": completion, "label": label, **more}


def labels(folder: Path, values: list[Any], **changes: Any) -> dict[str, bool]:
    file = jsonl(folder, *(thumb(value, f"a{number}") for number, value in enumerate(values)))
    return {completion: up for _, completion, up, _ in both(file, **changes)}


@pytest.mark.parametrize(("low", "high"), [(1, 5), (0, 4), (-3, 3), (0.0, 0.9), (1, 2), (0, 0)])
def test_a_scale_that_is_not_decided_is_asked_for(tmp_path: Path, low: float, high: float) -> None:
    values = [low, high, (low + high) / 2, low]
    file = jsonl(tmp_path, *(thumb(value, f"a{number}") for number, value in enumerate(values)))
    asked(file, f"{low:g} (", "KEY.up_from", "KEY.down_to")
    if low < high:
        assert labels(tmp_path, values, up_from=high, down_to=low) == {"a0": False, "a1": True, "a3": False}


@pytest.mark.parametrize(
    ("values", "means"),
    [
        ([1, 0], [True, False]),
        (["1", "0"], [True, False]),
        ([1, -1], [True, False]),
        (["+1", "-1"], [True, False]),
        ([1, 0, -1], [True, None, False]),
        ([True, False], [True, False]),
        ([1], [True]),
        (["yes", "no", "👍", "👎", "thumbs up", "thumbs_down"], [True, False] * 3),
        (["Upvote", "downvote", "good", "bad", "like", "dislike"], [True, False] * 3),
        (["👍🏽", "👎🏿", "👍️", ":thumbsup:", " POSITIVE ", "Negative"], [True, False, True, True, True, False]),
        (["up", "neutral", "down"], [True, None, False]),
    ],
    ids=str,
)
def test_common_words_and_plain_thumbs_are_known(tmp_path: Path, values: list[Any], means: list[bool | None]) -> None:
    wanted = {f"a{number}": up for number, up in enumerate(means) if up is not None}
    assert labels(tmp_path, values) == wanted


def test_a_word_of_ones_own_is_mapped_and_comes_first(tmp_path: Path) -> None:
    found = labels(
        tmp_path,
        ["OK", "poor", "like", 3, "hm"],
        labels={"ok": True, "poor": False, "like": False, 3: True, "hm": None},
    )
    assert found == {"a0": True, "a1": False, "a2": False, "a3": True}


def test_how_labels_were_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(tmp_path, *(thumb(value) for value in ("yes", "yes", "👍", "no", "neutral")))
    told = "label: read as up: yes (2), 👍 (1); as down: no (1); left out: neutral (1)."
    read("feedback", file)
    assert told in capsys.readouterr().out
    found = FileExport(**settings("export", {}, {"path": str(file)})).read()
    assert [row.text for row in found if isinstance(row, Note)] == [f"thumbs.jsonl: {told}"]


def test_a_system_column_is_an_error_until_it_is_mapped_or_ignored(tmp_path: Path) -> None:
    file = jsonl(tmp_path, *(thumb(up, system=text) for up, text in ((True, "In French."), (False, "In German."))))
    asked(file, "'system' (text such as 'In French.', 2 rows)", "KEY.columns.system=system", "KEY.ignore=[system]")
    found = both(file, {"system": "system"})
    assert [prompt for prompt, *_ in found] == [
        [{"role": "system", "content": text}, USER] for text in ("In French.", "In German.")
    ]
    assert [prompt for prompt, *_ in both(file, ignore=["system"])] == ["Say hi."] * 2
    chat = jsonl(tmp_path, {**thumb(True, system="In French."), "prompt": [USER]})
    assert both(chat, {"system": "system"})[0][0][0]["role"] == "system"
    with pytest.raises(LabError, match=r"in 1 rows the prompt is text.*feedback\.as_chat=true"):
        given = settings("feedback", {"system": "system"}, {"path": str(jsonl(tmp_path, thumb(True, system="x")))})
        from_file(**given)


@pytest.mark.parametrize("name", ["System Prompt", "input", "context", "tool_calls", "functions", "reasoning_content"])
def test_no_column_that_is_part_of_what_was_asked_is_dropped(tmp_path: Path, name: str) -> None:
    file = jsonl(tmp_path, thumb(True), {**thumb(False), name: ["something"]}, {**thumb(False), name: None})
    asked(file, f"The column {name!r} (lists such as", "1 rows", f"KEY.ignore=[{name}]")
    assert len(both(file, ignore=[name])) == 3


def test_an_input_goes_behind_its_instruction(tmp_path: Path) -> None:
    rows = [{"instruction": "Sort.", "input": given, "output": "1 2", "label": True} for given in ("2 1", "1 2", "")]
    names = {"prompt": "instruction", "completion": "output"}
    asked(jsonl(tmp_path, *rows), "there is no column 'prompt'", "KEY.columns.prompt=<column>")
    asked(jsonl(tmp_path, *rows), "KEY.columns.input=input", columns=names)
    found = both(jsonl(tmp_path, *rows), {**names, "input": "input"})
    assert [prompt for prompt, *_ in found] == ["Sort.", "Sort.\n\n1 2", "Sort.\n\n2 1"]


def test_other_columns_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(tmp_path, thumb(True, note="n" * 100, stars=4), thumb(False, note="", stars=1), thumb(True))
    read("feedback", file)
    said = capsys.readouterr().out
    assert f"'note' (text such as '{'n' * 40}...', 1 rows), 'stars' (numbers such as '4', 2 rows)" in said
    assert "feedback.ignore=[note,stars]" in said and said.count("not read") == 1
    read("feedback", file, ignore=["note", "stars"])
    assert "not read" not in capsys.readouterr().out


def calls(city: str, content: str | None = "") -> dict[str, Any]:
    called = {"name": "weather", "arguments": {"city": city}}
    return {"role": "assistant", "content": content, "tool_calls": [{"function": called}]}


def test_messages_are_whole_to_both_readers(tmp_path: Path) -> None:
    asks = {"role": "user", "content": "Weather?"}
    talks = [[asks, calls("Oslo", "One moment.")], [asks, calls("Rome", "One moment.")]]
    file = jsonl(tmp_path, *({"messages": talk, "label": up} for talk, up in zip(talks, (True, False), strict=True)))
    names = {"prompt": None, "completion": "messages"}
    assert [answer for _, answer, *_ in both(file, names)] == [
        f'One moment.\n\nweather({{"city": "{city}"}})' for city in ("Oslo", "Rome")
    ]
    assert both(file, names, ignore=["tool_calls"]) == [([asks], "One moment.", up, True) for up in (False, True)]
    prompt = [asks, calls("Oslo"), {"role": "tool", "content": "Rain.", "tool_call_id": "t", "name": "weather"}]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    file = jsonl(tmp_path, {**thumb(True), "prompt": prompt, "tools": tools}, {**thumb(False), "prompt": [asks]})
    asked(file, "KEY.columns.tools=tools")
    (second, *_), (first, *_) = both(file, {"tools": "tools"})
    call = '[{"function": {"arguments": {"city": "Oslo"}, "name": "weather"}, "type": "function"}]'
    assert second[0] == {**asks, "tools": json.dumps(tools, sort_keys=True)} and second[1]["tool_calls"] == call
    assert second[2] == prompt[2] and first == [asks]
    # A turn that was nothing but a call is none without it, so its row is left out.
    assert [up for _, _, up, _ in both(file, ignore=["tool_calls", "tool_call_id", "name", "tools"])] == [False]


def test_a_list_of_texts_is_turns_or_alternatives_and_never_one_text(tmp_path: Path) -> None:
    turns = {"prompt": ["Name a fruit.", "Another?"], "completion": ["Apple.", "Pear."], "label": True}
    gap = {**turns, "completion": ["A stone.", None], "label": False}
    short = {**turns, "completion": ["One."], "label": False}
    talk = [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "Apple."}]
    talk.append({"role": "user", "content": "Another?"})
    spelled = [
        {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}
        for row in (turns, gap, short)
    ]
    for rows in ([turns, gap, short], spelled):
        file = jsonl(tmp_path, *rows)
        asked(file, "3 of 3 rows have a list of texts in 'prompt'", "KEY.lists=turns", "KEY.lists=alternatives")
        assert both(file, lists="turns") == [(talk, "Pear.", True, True)]
    file = jsonl(tmp_path, {**thumb(True), "completion": ["Hi.", "Hello."]}, thumb(False, '["red", "blue"]'))
    asked(file, "1 of 2 rows have a list of texts in 'completion'")
    assert both(file, lists="alternatives") == [
        ("Say hi.", "Hello.", True, True),
        ("Say hi.", "Hi.", True, True),
        ("Say hi.", '["red", "blue"]', False, True),
    ]
    same = jsonl(tmp_path, {**thumb(True), "prompt": '["a", "b"]'})
    assert both(same, lists="text") == [('["a", "b"]', "Hi.", True, True)]


def test_both_halves_of_a_pair_of_turns_are_judged_after_their_own_answers(tmp_path: Path) -> None:
    row = {"prompt": ["Name a fruit.", "Another?"], "a": ["Apple.", "Pear."], "b": ["A stone.", None], "won": 1}
    names = {"chosen": "a", "rejected": "b", "chosen_wins": "won"}
    ((prompt, answer, up, _),) = both(jsonl(tmp_path, row), names, lists="turns")
    assert ([turn["content"] for turn in prompt], answer, up) == (
        ["Name a fruit.", "Apple.", "Another?"],
        "Pear.",
        True,
    )
    found = both(jsonl(tmp_path, {**row, "b": ["A stone.", "A hat."], "won": False}), names, lists="turns")
    assert [(prompt[1]["content"], answer, up) for prompt, answer, up, _ in found] == [
        ("A stone.", "A hat.", True),
        ("Apple.", "Pear.", False),
    ]


def test_what_a_missing_answer_was_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": ["Name a fruit."], "a": ["Apple."], "b": [None]}
    file = jsonl(tmp_path, row)
    assert [answer for _, answer, *_ in both(file, {"chosen": "a", "rejected": "b"}, lists="turns")] == ["Apple."]
    assert "1 answers are missing" in capsys.readouterr().out
    given = settings("export", {"chosen": "a", "rejected": "b"}, {"path": str(file), "lists": "turns"})
    (found,) = (row for row in FileExport(**given).read() if isinstance(row, Row))
    assert [one.detail for one in found.left_out] == ["an answer is missing from its list"]


def test_results_in_a_users_message_are_turns_of_their_own(tmp_path: Path) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "Rain."}]}
    prompt = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Looking."}, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "Briefly."}]},
    ]
    ((found, answer, *_),) = both(jsonl(tmp_path, {**thumb(True), "prompt": prompt}))
    assert [turn["role"] for turn in found] == ["user", "assistant", "tool", "user"] and answer == "Hi."
    assert found[2] == {"role": "tool", "content": "Rain.", "tool_call_id": "c1"}
    assert found[3] == {"role": "user", "content": "Briefly."}


def test_roles_and_parts_of_messages_are_read_as_tools_write_them(tmp_path: Path) -> None:
    asks = [
        {"role": "developer", "content": "Be brief."},
        {"role": "human", "content": [{"type": "text", "text": "Say "}, {"type": "input_text", "text": "hi."}]},
    ]
    says = {"role": "ai", "content": [{"type": "output_text", "text": "Hi."}]}
    wanted = [([{"role": "system", "content": "Be brief."}, USER], "Hi.", True, True)]
    for answer in ([says], says["content"], "Hi."):
        assert both(jsonl(tmp_path, {**thumb(True, answer), "prompt": asks})) == wanted
    talk = jsonl(tmp_path, {"completion": json.dumps([*asks, says]), "label": True})
    assert both(talk, {"prompt": None}) == wanted
    picture = [{"role": "user", "content": [{"type": "image_url"}]}]
    assert both(jsonl(tmp_path, thumb(True), {**thumb(True), "prompt": picture})) == [("Say hi.", "Hi.", True, True)]


def test_thumbs_without_prompts_are_told_what_kto_needs(tmp_path: Path) -> None:
    rows = [{"comment": text, "label": up} for text, up in (("Nice page.", True), ("Bad search.", False))]
    file = jsonl(tmp_path, *rows)
    asked(file, "no column 'prompt'", "KEY.constant_prompt='...'", columns={"completion": "comment"})
    nowhere = {"prompt": None, "completion": "comment"}
    asked(file, "no answer is a whole conversation", "'Nice page.'", "KEY.constant_prompt=", columns=nowhere)
    found = both(file, nowhere, constant_prompt="What do you think?")
    assert found == [
        ("What do you think?", text, up, True) for text, up in (("Bad search.", False), ("Nice page.", True))
    ]


def test_answers_that_a_tool_cut_are_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["x" * 500, "y" * 500, "z" * 497 + "...", "v" * 500 + "…", "short"]
    file = jsonl(tmp_path, *(thumb(number % 2 == 0, text) for number, text in enumerate(texts)))
    found = [(len(text), finished) for _, text, _, finished in read("feedback", file, cut_at=500)]
    assert sorted(found) == [(5, True), (497, False), (500, False), (500, False), (500, False)]
    assert "4 answers were cut" in capsys.readouterr().out
    target = tmp_path / "thumbs.parquet"
    export = FileExport(**settings("export", {}, {"path": str(file), "cut_at": 500}))
    report = import_thumbs(export, target, configured(()), source="invented")
    assert sorted((len(row["completion"]), row["finished"]) for row in pq.read_table(target).to_pylist()) == sorted(
        found
    )
    assert "4 answers were cut by the tool that wrote them: they get no end of turn." in report.notes
    target.unlink()
    file = jsonl(tmp_path, *(thumb(True, text) for text in texts[:3]))
    export = FileExport(**settings("export", {}, {"path": str(file)}))
    report = import_thumbs(export, target, configured(()), source="invented")
    assert "export.cut_at=500" in report.notes[-1]
    read("feedback", jsonl(tmp_path, *(thumb(True, text) for text in texts[:3])))
    assert "3 different answers have exactly 500 characters" in (said := capsys.readouterr().out)
    assert "feedback.cut_at=500" in said
    read("feedback", jsonl(tmp_path, *(thumb(True, "x" * 500) for _ in range(5)), thumb(True, "y" * 500)))
    assert "different answers" not in capsys.readouterr().out, "the same answer again says nothing"


@pytest.mark.parametrize("name", ["thumbs.json", "thumbs.jsonl", "thumbs.ndjson", "thumbs.csv", "thumbs.parquet"])
def test_every_container_is_read_alike(tmp_path: Path, name: str) -> None:
    rows = [thumb("up"), thumb("down", 'No, "no".\nNo.'), thumb(None, "  ")]
    lines = {
        "thumbs.json": json.dumps(rows[:2], indent=1),
        "thumbs.csv": 'prompt,completion,label\nSay hi.,Hi.,up\n\nSay hi.,"No, ""no"".\nNo.",down\nSay hi.,  ,\n',
    }
    file = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text(lines.get(name, "\n".join(json.dumps(row) for row in rows[:2])))
    assert both(file) == [("Say hi.", "Hi.", True, True), ("Say hi.", 'No, "no".\nNo.', False, True)]


def test_a_file_of_an_unknown_kind_is_asked_about(tmp_path: Path) -> None:
    file = jsonl(tmp_path, thumb(True)).rename(tmp_path / "thumbs.log")
    asked(file, "what kind of file", ".json, .jsonl", "KEY.container")
    asked(file, "KEY.container is 'xml'", container="xml")
    assert len(both(file, container="jsonl")) == 1
    (tmp_path / "empty.csv").touch()
    asked(tmp_path / "empty.csv", "KEY.path", "the file is empty")
    asked(tmp_path / "none.csv", "KEY.path: there is no file")


@pytest.mark.parametrize("name", ["thumbs.json", "thumbs.jsonl", "thumbs.csv"])
def test_a_row_that_cannot_be_read_stops_a_table_or_is_dropped_with_its_place(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.dumps(thumb(True))
    texts = {
        "thumbs.json": (f"[{good}, {{broken}}, {good}]", "thumbs.json[1]: broken JSON"),
        "thumbs.jsonl": (f"{good}\n{{broken}}\n{good}\n", "thumbs.jsonl:2: broken JSON"),
        "thumbs.csv": (
            "prompt,completion,label\nSay hi.,Hi.,up\nbroken\nSay hi.,Hi.,up\n",
            "thumbs.csv:3: the row has",
        ),
    }
    file = tmp_path / name
    file.write_text(texts[name][0])
    assert len(both(file)) == 2
    assert "dropped 1 of 3 rows" in caplog.text and texts[name][1] in caplog.text
    with pytest.raises(LabError, match=re.escape(texts[name][1])):
        from_file(**settings("feedback", {}, {"path": str(file)}))


def test_the_rest_of_a_file_that_breaks_off_is_never_dropped(tmp_path: Path) -> None:
    file = tmp_path / "thumbs.json"
    file.write_text(json.dumps([thumb(True), thumb(False)])[:-1])
    with pytest.raises(LabError, match=r"thumbs\.json\[2\]: the file ends before the list does"):
        read("feedback", file)


@pytest.mark.parametrize("cell", [True, "FALSE", 0, 0.0, "0.0", "no", None, "", "t"])
def test_whether_an_answer_ended_is_read_alike(tmp_path: Path, cell: Any) -> None:
    file = jsonl(tmp_path, thumb(True, end=cell))
    ((*_, finished),) = both(file, {"finished": "end"})
    assert finished is (cell in (True, None, "", "t"))


def test_settings_that_contradict_are_refused_alike(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"prompt": "p", "a": "x", "b": "y", "label": True})
    pair = {"chosen": "a", "rejected": "b"}
    asked(file, "pairs have none", columns=pair, labels={"ok": True})
    asked(file, "Use score_chosen", columns={**pair, "score": "label"})
    asked(file, "must be one of turns", lists="both")
    asked(file, "KEY.cut_at is 0", cut_at=0)


def test_the_keys_of_both_readers_have_the_same_names_and_comments() -> None:
    first, second = (explained(CONF / group / "file.yaml") for group in READERS)
    shared = set(first) & set(second)
    assert {"path", "container", "columns", "labels", "lists", "ignore", "cut_at", "  finished", "  prompt"} <= shared
    assert {key: first[key] for key in shared} == {key: second[key] for key in shared}


def explained(file: Path) -> dict[str, str]:
    """The comment of each key."""
    lines = [line for line in file.read_text().splitlines() if "#" in line and not line.startswith("#")]
    return {line.partition(":")[0]: line.partition("# ")[2] for line in lines}
