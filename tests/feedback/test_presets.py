"""The formats of tools: each read from a small file with the tool's own columns."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.layout import DEFAULT_COLUMNS
from kto_lab.feedback.pairs import make_pairs
from kto_lab.feedback.preset_fit import looks_like
from kto_lab.feedback.presets import PRESETS
from kto_lab.importing.exports.file import FileExport
from kto_lab.importing.thumbs import Row
from tests.feedback.reading import CONF, jsonl, read, settings

ASKED = [{"role": "user", "content": "Name a fruit."}]
GOOD, BAD = [{"role": "assistant", "content": text} for text in ("Apple.", "A stone.")]
FIRST, LAST = [*ASKED, GOOD], [*ASKED, BAD]
SAID = (("Apple.", True), ("A stone.", False))
TEXT = {"prompt": "Name a fruit."}
TWO = {"chosen": "Apple.", "rejected": "A stone."}
TOLD = {"system": "Be brief."}
HUMAN, GPT = {"from": "human", "value": "Name a fruit."}, {"from": "gpt", "value": "Apple."}
STONE = {"from": "gpt", "value": "A stone."}
OASST = {
    "message_tree_id": "t1",
    "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "t1",
        "text": "Name a fruit.",
        "role": "prompter",
        "lang": "en",
        "replies": [
            {"text": "A stone.", "role": "assistant", "rank": 1, "replies": []},
            {
                "text": "Apple.",
                "role": "assistant",
                "rank": 0,
                "replies": [
                    {"text": "Another?", "role": "prompter", "replies": [{"text": "Pear.", "role": "assistant"}]}
                ],
            },
            {"text": "Spam.", "role": "assistant", "rank": 2, "deleted": True, "replies": []},
        ],
    },
}
ARENA = {"model_a": "m1", "model_b": "m2", "judge": "ann", "turn": 1, "language": "English", "tstamp": 1682351591.1}
SCORES = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 1}
LOW = {**SCORES, "helpfulness": 0}
MIDDLE = {**SCORES, "helpfulness": 2}
PKU = {"response_0": "A stone.", "response_1": "Apple.", "is_response_0_safe": False, "is_response_1_safe": True}
HALOS = {"prompt_key": "k", "prompt_id": 0, "prompt": ASKED}
SCORED = {"score_chosen": 8.5, "score_rejected": 3.0}

# Each: the format, the rows, and whether the table has chat messages. All of them say that an apple is a fruit, and
# that a stone is none.
CASES: list[tuple[str, str, list[dict[str, Any]], bool]] = [
    ("trl", "thumbs", [{**TEXT, "completion": text, "label": up} for text, up in SAID], False),
    ("trl", "chat", [{"prompt": ASKED, "completion": [one], "label": one is GOOD} for one in (GOOD, BAD)], True),
    ("trl", "pairs", [{**TEXT, **TWO}], False),
    ("trl", "chat pairs", [{"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]}], True),
    ("trl", "implicit", [{"chosen": FIRST, "rejected": LAST}], True),
    ("trl", "implicit texts", [{"chosen": "Name a fruit. Apple.", "rejected": "Name a fruit. A stone."}], False),
    ("halos", "binary", [
        {**HALOS, "output": [one], "label": int(one is GOOD), "reward": 0, "type": "binary_feedback", "split": "test"}
        for one in (GOOD, BAD)
    ], True),
    ("halos", "pairwise", [
        {**HALOS, "output_A": [BAD], "output_B": [GOOD], "label": 0, "reward_A": 0.1, "reward_B": 0.9,
         "reward_difference": 0.8, "type": "pairwise_feedback", "split": "train"}
    ], True),
    ("sharegpt", "thumbs", [{"conversations": [HUMAN, one], "kto_tag": one is GPT} for one in (GPT, STONE)], True),
    ("sharegpt", "pairs", [{"conversations": [HUMAN], "chosen": GPT, "rejected": STONE}], True),
    ("alpaca", "thumbs", [
        {"instruction": "Name a", "input": "fruit.", "output": text, "kto_tag": up}
        for text, up in SAID
    ], True),
    ("alpaca", "pairs", [{"instruction": "Name a fruit.", "input": "", **TWO}], True),
    ("axolotl", "chat_template.argilla", [{"chosen": FIRST, "rejected": LAST}], True),
    ("axolotl", "chat_template.default", [{"messages": ASKED, "chosen": GOOD, "rejected": BAD}], True),
    ("axolotl", "llama3.argilla", [
        {"instruction": "Name a fruit.", "chosen_response": "Apple.", "rejected_response": "A stone."}
    ], True),
    ("axolotl", "chatml.intel", [{"question": "Name a fruit.", **TWO}], True),
    ("axolotl", "kto", [
        {"instruction": "Name a fruit.", "completion": text, "label": up}
        for text, up in SAID
    ], True),
    ("ms_swift", "thumbs", [{"messages": [*ASKED, one], "label": one is GOOD} for one in (GOOD, BAD)], True),
    ("ms_swift", "pairs", [{"messages": [*ASKED, GOOD], "rejected_response": "A stone."}], True),
    ("ms_swift", "conversations", [{"messages": [*ASKED, GOOD], "rejected_messages": [*ASKED, BAD]}], True),
    ("ms_swift", "old", [{"query": "Name a fruit.", "response": "Apple.", "rejected_response": "A stone."}], True),
    ("openrlhf", "pairs", [{"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]}], True),
    ("openrlhf", "thumbs", [
        {"instruction": "Name a fruit.", "response": text, "score": score}
        for text, score in (("Apple.", 1), ("A stone.", -1))
    ], False),
    ("ultrafeedback", "", [
        {**TEXT, "prompt_id": "p1", "chosen": FIRST, "rejected": LAST, "messages": FIRST, **SCORED}
    ], True),
    ("openai", "", [
        {"input": {"messages": ASKED, "tools": [], "parallel_tool_calls": True}, "preferred_output": [GOOD],
         "non_preferred_output": [BAD]}
    ], True),
    ("openassistant", "", [OASST], True),
    ("pku_saferlhf", "", [{**TEXT, **PKU, "better_response_id": 1, "safer_response_id": 1}], False),
    ("helpsteer", "", [
        {**TEXT, "response": text, **scores}
        for text, scores in (("Apple.", SCORES), ("A stone.", LOW), ("Ham.", MIDDLE))
    ], False),
    ("arena", "2023", [
        {**ARENA, "question_id": winner, "winner": winner, "conversation_a": LAST, "conversation_b": FIRST}
        for winner in ("model_b", "tie")
    ], True),
    ("arena", "2024", [
        {"id": 1, "prompt": '["Name a fruit."]', "response_a": '["A stone."]', "response_b": '["Apple."]',
         "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
        {"id": 2, "prompt": '["Name a fruit."]', "response_a": '["A stone."]', "response_b": '["Apple."]',
         "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1},
    ], True),
    ("stars", "", [
        {**TEXT, "response": text, "rating": stars} for text, stars in (("Apple.", 5), ("A stone.", 1), ("Ham.", 3))
    ], False),
    ("spreadsheet", "", [{**TEXT, "completion": text, "label": up} for text, up in SAID], False),
]  # fmt: skip
IDS = [f"{format} {shape}".strip() for format, shape, *_ in CASES]


@pytest.mark.parametrize(("format", "shape", "rows", "chat"), CASES, ids=IDS)
def test_every_format_is_read_by_its_name_alone(
    tmp_path: Path, format: str, shape: str, rows: list[dict[str, Any]], chat: bool
) -> None:
    table = read(jsonl(tmp_path, *rows), format=format)
    answers = dict(zip(table["completion"], table["desirable"], strict=True))
    assert {text.strip(): up for text, up in answers.items()} == {"Apple.": True, "A stone.": False}
    prompt = table["prompt"][0][-1]["content"] if chat else table["prompt"][0]
    assert " ".join(prompt.split()) == "Name a fruit." and isinstance(table["prompt"][0], str) is not chat
    assert len(make_pairs(table, seed=0)) == 1 and len(table) == 2
    assert ("pair_id" in table.column_names) is (len(rows) == 1 or format == "arena"), "what was compared stays a pair"


@pytest.mark.parametrize(("format", "shape", "rows", "chat"), CASES, ids=IDS)
def test_an_import_reads_it_alike(
    tmp_path: Path, format: str, shape: str, rows: list[dict[str, Any]], chat: bool
) -> None:
    file = jsonl(tmp_path, *rows)
    table = read(file, format=format)
    found = FileExport(**settings("export/file", {}, {"path": str(file), "format": format})).read()
    thumbs = [thumb for one in found if isinstance(one, Row) for thumb in one.thumbs]
    assert [(one.prompt, one.completion, one.desirable) for one in thumbs] == [
        (row["prompt"], row["completion"], row["desirable"]) for row in table
    ]


def test_every_format_has_a_case_and_stands_in_the_configuration() -> None:
    assert {format for format, *_ in CASES} == set(PRESETS)
    for file in ("feedback/file.yaml", "feedback/hub.yaml", "export/file.yaml"):
        (line,) = [line for line in (CONF / file).read_text().splitlines() if line.startswith("format:")]
        assert all(f" {name}," in line or f" {name} (" in line for name in PRESETS), file
    given = settings("feedback/file", {}, {})["columns"]
    assert {field: column for field, column in given.items() if column is not None} == DEFAULT_COLUMNS


def test_the_page_of_formats_has_a_row_of_each_that_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text()
    shown = re.findall(r"^\| `(\w+)` \| .* \| `(\{.*\})` \|$", page, re.MULTILINE)
    assert sorted(name for name, _ in shown) == sorted(PRESETS)
    for format, row in shown:
        table = read(jsonl(tmp_path, json.loads(row)), format=format)
        assert "Apple." in table["completion"][:] and set(table["completion"]) <= {"Apple.", "A stone."}, format


@pytest.mark.parametrize(
    ("format", "rows"),
    [(format, rows) for format, shape, rows, _ in CASES if (format, shape) not in {
        ("trl", "thumbs"), ("trl", "chat"), ("spreadsheet", ""),  # read without a format
        ("openrlhf", "pairs"), ("axolotl", "chat_template.argilla"), # as TRL's
    }],
)  # fmt: skip
def test_a_file_without_a_format_is_offered_the_one_that_it_looks_like(
    tmp_path: Path, format: str, rows: list[dict[str, Any]]
) -> None:
    with pytest.raises(LabError, match=rf"There are: .* This looks like .*: feedback\.format={format}\.$"):
        read(jsonl(tmp_path, *rows))


def test_nothing_is_offered_for_what_looks_like_nothing(tmp_path: Path) -> None:
    with pytest.raises(LabError) as refused:
        read(jsonl(tmp_path, {"question": "q", "text": "a", "up": 1}))
    assert "looks like" not in str(refused.value)
    assert looks_like(None, "feedback") == ""


def test_a_format_that_does_not_fit_says_which_column_told_it_so(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {**TEXT, "completion": "Apple.", "label": True})
    with pytest.raises(LabError) as refused:
        read(file, format="sharegpt")
    said = str(refused.value)
    assert "feedback.format=sharegpt" in said and "there is no column 'conversations' for " in said
    assert "There are: prompt, completion, label." in said and "feedback.format=trl." in said
    jsonl(tmp_path, {**OASST, "prompt": "Name a fruit."})
    with pytest.raises(LabError, match="the column 'prompt' does not hold a message with replies"):
        read(file, format="openassistant")
    with pytest.raises(LabError, match=r"feedback\.format is 'csv'; it must be null or one of openai, "):
        read(file, format="csv")
    file.write_text('{"a"\n')
    with pytest.raises(LabError, match=r"t\.jsonl.*broken JSON"):
        read(file, format="trl", container="jsonl")


def test_columns_and_settings_by_hand_come_before_those_of_a_format(tmp_path: Path) -> None:
    rows = [{"conversations": [HUMAN, one], "good": int(one is GPT)} for one in (GPT, STONE)]
    with pytest.raises(LabError, match="there is no column 'kto_tag' or 'label' for label"):
        read(jsonl(tmp_path, *rows), format="sharegpt")
    table = read(tmp_path / "t.jsonl", {"label": "good", "rater": None}, format="sharegpt", labels={1: False, 0: True})
    assert dict(zip(table["completion"], table["desirable"], strict=True)) == {"Apple.": False, "A stone.": True}
    rows = [{**TEXT, "response": text, **SCORES, "correctness": mark} for text, mark in (("Apple.", 3), ("Ham.", 1))]
    table = read(jsonl(tmp_path, *rows), {"label": "correctness"}, format="helpsteer", up_from=3, down_to=2)
    assert table["desirable"] == [True, False] and table["score"] == [3.0, 1.0]


def test_what_only_some_rows_have_is_read(tmp_path: Path) -> None:
    rows = [{"conversations": [HUMAN, GPT], "kto_tag": True}, {"conversations": [HUMAN, GPT], "kto_tag": True, **TOLD}]
    prompts = read(jsonl(tmp_path, *rows), format="sharegpt")["prompt"]
    assert [message["content"] for message in prompts[1]] == ["Be brief.", "Name a fruit."] and len(prompts[0]) == 1


def test_system_and_history_of_alpaca_are_part_of_the_prompt(tmp_path: Path) -> None:
    row = {"instruction": "Another?", "input": "", "output": "Pear.", "kto_tag": True, **TOLD, "history": [["A", "B"]]}
    (got,) = read(jsonl(tmp_path, row), format="alpaca")
    said = [(message["role"], message["content"]) for message in got["prompt"]]
    assert said == [("system", "Be brief."), ("user", "A"), ("assistant", "B"), ("user", "Another?")]
    with pytest.raises(LabError, match=r"t\.jsonl:2: a turn of 'history' is \['A'\], not a question and an answer"):
        read(jsonl(tmp_path, row, {**row, "history": [["A"]]}), format="alpaca")


def test_answers_of_a_tree_are_paired_by_rank_and_a_tree_without_any_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = [{"text": f"a{rank}", "role": "assistant", "rank": rank} for rank in (2, 0, 1)]
    ask = {"role": "prompter", "text": "Q", "replies": replies}
    alone = {"prompt": {"role": "prompter", "text": "Q", "replies": replies[:1]}}
    deep = {
        "prompt": {"role": "prompter", "text": "P", "replies": [{"role": "assistant", "text": "A", "replies": [ask]}]}
    }
    table = read(jsonl(tmp_path, {"prompt": ask}, alone, deep), format="openassistant")
    compared: dict[str, list[str]] = {}
    for row in table:
        compared.setdefault(row["pair_id"], []).append(f"{len(row['prompt'])} {row['completion']}")
    assert sorted(compared.values()) == [["1 a0", "1 a1"], ["1 a1", "1 a2"], ["3 a0", "3 a1"], ["3 a1", "3 a2"]]
    assert "left out 1 of 5 rows" in capsys.readouterr().out
    with pytest.raises(LabError, match=r"t\.jsonl:2: a message of the tree is .*without a text"):
        read(jsonl(tmp_path, {"prompt": ask}, {"prompt": {"role": "prompter", "replies": []}}), format="openassistant")


def test_two_outcomes_of_one_vote_are_an_error(tmp_path: Path) -> None:
    (_, _, (vote, _), _) = CASES[IDS.index("arena 2024")]
    with pytest.raises(LabError, match=r"t\.jsonl:1: winner_model_b and winner_tie are 1 at once"):
        read(jsonl(tmp_path, {**vote, "winner_tie": 1}), format="arena")


def test_a_limit_of_the_tool_is_part_of_its_format(tmp_path: Path) -> None:
    row = {**TEXT, "completion": "x" * 32_767, "label": 1}
    (got,) = read(jsonl(tmp_path, row), format="spreadsheet")
    assert got["finished"] is False
    (got,) = read(tmp_path / "t.jsonl")
    assert got["finished"] is True
    (got,) = read(tmp_path / "t.jsonl", format="spreadsheet", cut_at=40_000)
    assert got["finished"] is True
    given = settings("export/file", {}, {"path": "t.jsonl", "format": "spreadsheet"})
    assert (FileExport(**given).cut_at, FileExport(**{**given, "format": None}).cut_at) == (32_767, None)


def test_texts_without_a_prompt_in_common_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"t\.jsonl:1: 'chosen' and 'rejected' do not begin alike"):
        read(jsonl(tmp_path, TWO), format="trl")


def test_a_format_in_an_envelope(tmp_path: Path) -> None:
    file = tmp_path / "page.json"
    file.write_text(json.dumps({"data": [{"conversations": [HUMAN, GPT], "kto_tag": True}]}))
    assert len(read(file, format="sharegpt")) == 1
    file.write_text(json.dumps({"mine": [{"conversations": [HUMAN, GPT], "kto_tag": True}]}))
    assert len(read(file, format="sharegpt", rows_at="mine")) == 1


def test_tools_and_calls_are_kept(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    call = {"name": "weather", "arguments": {"city": "Oslo"}}
    ask = {"from": "human", "value": "Weather in Oslo?"}
    turns = [ask, {"from": "function_call", "value": json.dumps(call)}]
    row = {"conversations": turns, "kto_tag": True, "tools": json.dumps(tools), "system": ""}
    (got,) = read(jsonl(tmp_path, row), format="sharegpt")
    assert json.loads(got["message"])["tool_calls"] == json.dumps(
        [{"function": call, "type": "function"}], sort_keys=True
    )
    assert json.loads(got["prompt"][0]["tools"]) == tools
    said = [*turns, {"from": "observation", "value": "3 degrees"}, {"from": "gpt", "value": "Cold."}]
    (got,) = read(jsonl(tmp_path, {"conversations": said, "kto_tag": True}), format="sharegpt")
    assert [message["role"] for message in got["prompt"]] == ["user", "assistant", "tool"]
    asked = {"messages": [{"role": "user", "content": "Weather in Oslo?"}], "tools": tools, "parallel_tool_calls": True}
    called = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]}
    row = {"input": asked, "preferred_output": [called], "non_preferred_output": [BAD]}
    table = read(jsonl(tmp_path, row), format="openai")
    assert json.loads(table["prompt"][0][0]["tools"]) == tools and len(make_pairs(table, seed=0)) == 1


@pytest.mark.parametrize(("format", "shape", "rows", "chat"), CASES, ids=IDS)
def test_every_format_is_read_in_an_envelope(
    tmp_path: Path, format: str, shape: str, rows: list[dict[str, Any]], chat: bool
) -> None:
    file = tmp_path / "page.json"
    file.write_text(json.dumps({"data": rows, "next": None}))
    assert sum(read(file, format=format)["desirable"]) == 1
