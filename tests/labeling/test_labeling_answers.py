import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.known import split_of
from kto_lab.judging.answer import Answer
from kto_lab.labeling.answers import Examples, File, examples_of, of_prompts

DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "conf/answers/file.yaml").read_text())


def read(path: Path, columns: Mapping[str, str | None] | None = None, **changes: Any) -> list[Answer]:
    settings = {key: value for key, value in DEFAULTS.items() if key != "_target_"}
    settings["columns"] = {**settings["columns"], **(columns or {})}
    return File(**{**settings, "path": str(path), **changes}).read([])


def jsonl(folder: Path, *rows: Any) -> Path:
    file = folder / "answers.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def test_answers_without_thumbs(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi."}]
    (found,) = read(jsonl(tmp_path, {"prompt": chat, "completion": [{"role": "assistant", "content": "Ho."}]}))
    assert (found.prompt, found.completion, found.thumb, found.truth) == (chat, "Ho.", None, None)
    assert found.where.endswith("answers.jsonl:1")
    assert found.more["split"] == split_of(found.prompt_id, 0.2) and found.more["group"] == "answers.jsonl"


def test_some_rows_may_have_a_thumb(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": text, "up": up} for text, up in (("a", "yes"), ("b", None), ("c", "meh"))]
    rows.append({"prompt": "p", "completion": "d"})
    found = read(jsonl(tmp_path, *rows), {"label": "up"}, labels={"yes": True, "no": False, "meh": None})
    assert [answer.thumb for answer in found] == [True, None, None, None]


def test_times_follow_the_order_of_their_column(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": day, "up": True, "when": f"{day}.03.2026"} for day in ("04", "15")]
    columns = {"timestamp": "when", "label": "up"}
    found = read(jsonl(tmp_path, *rows), columns)
    assert [answer.more["timestamp"] for answer in found] == ["2026-03-04T00:00:00Z", "2026-03-15T00:00:00Z"]
    with pytest.raises(LabError, match=r"answers\.day_first=true"):
        read(jsonl(tmp_path, rows[0]), columns)


def test_csv_and_parquet_are_the_same_answers(tmp_path: Path) -> None:
    checks = '{"checker": "sentiment"}'
    cell = checks.replace('"', '""')
    (tmp_path / "a.csv").write_text(f'question,answer,up,why\n1+1=,2,TRUE,"{cell}"\n2+2=,5,,\n')
    table = {"question": ["1+1=", "2+2="], "answer": ["2", "5"], "up": [True, None], "why": [checks, None]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    names = {"prompt": "question", "completion": "answer", "label": "up", "checks": "why"}
    one, other = (read(tmp_path / name, names) for name in ("a.csv", "a.parquet"))
    for found in (one, other):
        assert [(answer.completion, answer.thumb, answer.more["checks"]) for answer in found] == [
            ("2", True, checks),
            ("5", None, ""),
        ]


@pytest.mark.parametrize(
    ("rows", "columns", "changes", "said"),
    [
        ([{"prompt": "p", "completion": " "}], {}, {}, r"answers\.jsonl:1: the completion is empty"),
        ([{"prompt": "p", "completion": "c"}, "{"], {}, {}, r"answers\.jsonl:2: broken JSON"),
        (
            [{"prompt": "p", "answer": "c"}],
            {},
            {},
            r"there is no column 'completion'.*answers\.columns\.completion=",
        ),
        ([{"prompt": "p", "completion": "c"}], {"checks": "how"}, {}, "no column 'how' for the checks"),
        ([{"prompt": "p", "completion": "c", "how": {"checker": 1}}], {"checks": "how"}, {}, ":1: .*no known checker"),
        ([{"prompt": "p", "completion": "c"}], {"answer": "how"}, {}, "answers.columns has no field 'answer'"),
        (
            [{"prompt": "p", "completion": "c", "up": 3}],
            {"label": "up"},
            {},
            r": 3 \(1\)\. Set answers\.up_from",
        ),
        ([{"prompt": "p", "completion": "c"}], {}, {"held_out": 1}, "answers.held_out is 1"),
        ([{"prompt": "p", "completion": "c"}], {}, {"container": "xml"}, "answers.container is 'xml'"),
        ([{"prompt": "p", "completion": "c"}], {}, {"bad_rows": "skip"}, "answers.bad_rows is 'skip'"),
    ],
)
def test_a_bad_row_says_where_it_is(
    tmp_path: Path, rows: list[Any], columns: dict[str, str], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(LabError, match=said):
        read(jsonl(tmp_path, *rows), columns, **changes)


def test_bad_rows_can_be_dropped_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = jsonl(tmp_path, {"prompt": "p", "completion": ""}, {"prompt": "p", "completion": "c"})
    assert [answer.completion for answer in read(file, bad_rows="drop")] == ["c"]
    assert "dropped 1 of 2 rows as malformed" in caplog.text


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"answers\.path: there is no file"):
        read(tmp_path / "nope.jsonl")


def test_examples_keep_what_is_known_of_them() -> None:
    table = from_collected("instruction_checks", None).select(range(3))
    found = Examples().read(examples_of(table))
    assert [answer.thumb for answer in found] == table["desirable"][:]
    assert found[0].more["checks"] == table[0]["checks"] and found[0].prompt_id == table[0]["prompt_id"]
    with pytest.raises(LabError, match="name it, such as feedback=arithmetic"):
        Examples().read([])


def test_fewer_prompts_are_within_more_in_any_order() -> None:
    answers = [Answer(f"p{number % 10}", "c", str(number)) for number in range(30)]
    few, more = of_prompts(answers, 3), of_prompts(answers, 6)
    assert len(few) == 9 and len(more) == 18 and {answer.where for answer in few} < {answer.where for answer in more}
    assert {answer.where for answer in of_prompts(answers[::-1], 3)} == {answer.where for answer in few}
    with pytest.raises(LabError, match="limit_prompts is 0"):
        of_prompts(answers, 0)


def test_a_conversation_as_text_says_who_speaks() -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi."}]
    assert Answer(turns, "c", "").prompt_text == "System: Be kind.\nUser: Hi."
    assert Answer(turns[1:], "c", "").prompt_text == "Hi."


def test_columns_may_be_paths_and_rows_in_an_envelope(tmp_path: Path) -> None:
    row = {"input": {"messages": [{"from": "human", "value": "Hi."}]}, "output": {"text": "Ho."}, "mark": {"up": "yes"}}
    columns = {"prompt": "$.data[*].input.messages", "completion": "$.data[*].output.text", "label": "mark.up"}
    (found,) = read(jsonl(tmp_path, {"data": [row], "next": None}), columns)
    assert (found.prompt, found.completion, found.thumb) == ([{"role": "user", "content": "Hi."}], "Ho.", True)
    assert found.where.endswith("answers.jsonl:1, data[0]")


def test_no_format_is_offered_where_there_is_no_such_key(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no column 'completion'") as refused:
        read(jsonl(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"}))
    assert "looks like" not in str(refused.value)
