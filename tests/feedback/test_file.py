import datetime
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.file import from_file
from kto_lab.feedback.pairs import make_pairs
from kto_lab.feedback.table import is_chat
from kto_lab.feedback.table_numbers import class_counts
from kto_lab.losses import Feed
from kto_lab.training.data import make_units

DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "conf/feedback/file.yaml").read_text())
CHAT = [{"role": "user", "content": "Say hi."}]
STARS = {"up_from": 4, "down_to": 2}


def read(path: Path, columns: Mapping[str, str | None] | None = None, **changes: Any) -> Dataset:
    settings = {key: value for key, value in DEFAULTS.items() if key != "_target_"}
    return from_file(
        **{**settings, "path": str(path), "columns": {**settings["columns"], **(columns or {})}, **changes}
    )


def jsonl(folder: Path, *rows: Any) -> Path:
    file = folder / "thumbs.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def thumb(**changes: Any) -> dict[str, Any]:
    return {"prompt": "Say hi.", "completion": "Hi.", "label": True, **changes}


def test_jsonl_with_every_optional_column(tmp_path: Path) -> None:
    row = {
        "q": CHAT,
        "a": [{"role": "assistant", "content": "Hi."}],
        "up": False,
        "who": 7,
        "stars": 2,
        "when": "2025-03-01T12:00:00Z",
        "team": "blue",
        "part": "test",
        "whole": False,
    }
    names = {"prompt": "q", "completion": "a", "label": "up", "rater": "who", "score": "stars", "timestamp": "when"}
    table = read(jsonl(tmp_path, row), {**names, "group": "team", "split": "part", "finished": "whole"})
    got = table[0]
    assert is_chat(table) and got["prompt"] == CHAT and got["completion"] == "Hi."
    assert (got["desirable"], got["finished"], got["split"]) == (False, False, "test")
    assert (got["rater"], got["score"], got["timestamp"], got["group"]) == ("7", 2.0, "2025-03-01T12:00:00Z", "blue")


def test_checks_are_mapped_and_a_row_whose_checks_cannot_be_run_is_named(tmp_path: Path) -> None:
    checks = {"checker": "arithmetic", "answer": "2"}
    file = jsonl(tmp_path, thumb(how=checks), thumb(prompt="Say ho.", how=json.dumps(checks)), thumb(prompt="Say no."))
    assert [row and json.loads(row) for row in read(file, {"checks": "how"})["checks"]] == [checks, checks, ""]
    assert set(read(file)["checks"]) == {""}
    broken = jsonl(tmp_path, thumb(how=checks), thumb(prompt="Say ho.", how={"checker": "magic"}))
    with pytest.raises(LabError, match=r"thumbs\.jsonl:2: The checks .*magic.* name no known checker"):
        read(broken, {"checks": "how"})


def test_an_optional_value_may_be_absent_from_some_rows(tmp_path: Path) -> None:
    table = read(jsonl(tmp_path, thumb(who="ann"), thumb(completion="Hey.")), {"rater": "who"})
    assert table["rater"] == ["ann", None]


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "thumbs.ndjson"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(thumb()).encode() + b"\r\n\r\n\n")
    assert len(read(file)) == 1


def test_the_three_formats_give_one_table(tmp_path: Path) -> None:
    rows = [
        thumb(),
        thumb(completion='Go, away.\nNow "please".', label=False),
        thumb(prompt="Ça va ?", completion="Oui."),
    ]
    texts = ["prompt,completion,label\n"]
    for row in rows:
        cells = [str(value).replace('"', '""') for value in row.values()]
        texts.append(",".join(f'"{cell}"' for cell in cells) + "\n")
    (tmp_path / "thumbs.csv").write_text("".join(texts))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "thumbs.parquet")
    tables = [read(jsonl(tmp_path, *rows)), read(tmp_path / "thumbs.csv"), read(tmp_path / "thumbs.parquet")]
    for column in ("example_id", "prompt", "completion", "desirable", "split"):
        assert tables[0][column] == tables[1][column] == tables[2][column]


def test_csv_cells_are_typed(tmp_path: Path) -> None:
    messages = json.dumps(CHAT).replace('"', '""')
    (tmp_path / "t.csv").write_text(f'prompt,completion,label,stars,who\n"{messages}",[1] is a footnote,TRUE,4.5,\n')
    row = read(tmp_path / "t.csv", {"score": "stars", "rater": "who"})[0]
    assert row["prompt"] == CHAT
    assert row["completion"] == "[1] is a footnote"
    assert (row["desirable"], row["score"], row["rater"]) == (True, 4.5, None)


def test_parquet_timestamps(tmp_path: Path) -> None:
    when = datetime.datetime(2025, 3, 1, 12, tzinfo=datetime.UTC)
    pq.write_table(pa.Table.from_pylist([thumb(when=when)]), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", {"timestamp": "when"})["timestamp"] == ["2025-03-01T12:00:00Z"]


def test_times_follow_the_order_that_one_of_them_decides_or_a_key(tmp_path: Path) -> None:
    when = {"timestamp": "when"}
    file = jsonl(tmp_path, thumb(when="03/04/2026 10:00 AM"), thumb(when=None), thumb(when="03/15/2026 10:00 AM"))
    assert read(file, when)["timestamp"] == ["2026-03-04T10:00:00Z", None, "2026-03-15T10:00:00Z"]
    berlin = read(file, when, timezone="Europe/Berlin")
    assert berlin["timestamp"][0] == "2026-03-04T09:00:00Z"
    jsonl(tmp_path, thumb(when="04/03/2026"), thumb(when="03/04/2026"))
    for bad_rows in ("error", "drop"):
        with pytest.raises(LabError, match=r"'04/03/2026' can have the day first.*feedback\.day_first=true"):
            read(file, when, bad_rows=bad_rows)
    assert read(file, when, day_first=True)["timestamp"] == ["2026-03-04T00:00:00Z", "2026-04-03T00:00:00Z"]
    assert len(read(file)) == 2, "a column that nobody maps decides nothing"


def test_label_values_are_mapped_and_null_leaves_a_row_out(tmp_path: Path) -> None:
    rows = [
        thumb(completion=str(i), label=label) for i, label in enumerate(["up", "down", "neutral", 1, 1.0, "1", True])
    ]
    table = read(jsonl(tmp_path, *rows), labels={"up": True, "down": False, "neutral": None, 1: False, "true": True})
    assert dict(zip(table["completion"], table["desirable"], strict=True)) == {
        "0": True, "1": False, "3": False, "4": False, "5": False, "6": True,
    }  # fmt: skip


def test_ratings_are_kept_and_the_middle_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [thumb(completion=str(stars), label=stars) for stars in (2, 3, 3.5, 4)]
    table = read(jsonl(tmp_path, *rows), up_from=3.5, down_to=2)
    assert table["desirable"] == [False, True, True]
    assert table["score"] == [2.0, 3.5, 4.0]
    assert "left out 1 of 4 rows" in capsys.readouterr().out


def test_pairs_become_two_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "Say hi.", "good": "Hi.", "bad": "No.", "g": 5, "b": 1}]
    columns = {"chosen": "good", "rejected": "bad", "score_chosen": "g", "score_rejected": "b"}
    table = read(jsonl(tmp_path, *rows), columns)
    assert list(zip(table["completion"], table["desirable"], table["score"], strict=True)) == [
        ("Hi.", True, 5.0),
        ("No.", False, 1.0),
    ]
    assert len(set(table["prompt_id"])) == 1


def test_whole_conversations_give_their_own_prompt(tmp_path: Path) -> None:
    rows = [{"talk": [*CHAT, {"role": "assistant", "content": "Hi."}], "label": True}]
    row = read(jsonl(tmp_path, *rows), {"prompt": None, "completion": "talk"})[0]
    assert (row["prompt"], row["completion"]) == (CHAT, "Hi.")


def test_text_prompts_become_user_messages(tmp_path: Path) -> None:
    assert read(jsonl(tmp_path, thumb()), as_chat=True)["prompt"] == [CHAT]


def test_uncertain_thumbs_are_left_out(tmp_path: Path) -> None:
    rows = [thumb(completion=str(sure), sure=sure) for sure in (0.4, 0.5, 0.9)]
    table = read(jsonl(tmp_path, *rows), {"certainty": "sure"}, min_certainty=0.5)
    assert table["completion"] == ["0.5", "0.9"]


def test_bad_rows_can_be_dropped_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = read(jsonl(tmp_path, thumb(), thumb(completion=""), thumb(label="?"), thumb(label=False)), bad_rows="drop")
    assert class_counts(table)["train" if "train" in table["split"] else "test"]["examples"] == 2
    assert "dropped 2 of 4 rows" in caplog.text and "thumbs.jsonl:2: the completion is empty" in caplog.text


@pytest.mark.parametrize(
    ("second", "settings", "message"),
    [
        ('{"prompt": "Say hi."', {}, "broken JSON: .* at character 21"),
        ("[1]", {}, "no JSON object"),
        ("9" * 5000, {}, "broken JSON: a number of too many digits"),
        ("[" * 200_000, {}, "broken JSON: nested too deep"),
        (thumb(label=10**400), STARS, "whose meaning is not known"),
        (thumb(completion="  "), {}, "the completion is empty"),
        (thumb(completion=CHAT), {}, "not of one assistant message"),
        (thumb(label="meh"), {}, "the label is 'meh', whose meaning is not known"),
        (thumb(label=None), {}, "there is no label"),
        (thumb(label="high"), STARS, "the label is 'high'"),
        (thumb(label=float("nan")), STARS, "the label is nan"),
        (
            {"prompt": "Say hi.", "completion": "Hi."},
            {},
            "no column 'label' for the label. There are: prompt, completion",
        ),
    ],
)
def test_bad_jsonl_rows_name_file_and_line(tmp_path: Path, second: Any, settings: dict, message: str) -> None:
    good = thumb(label=4) if settings else thumb()
    with pytest.raises(LabError, match=rf"thumbs\.jsonl:3: .*{message}"):
        read(jsonl(tmp_path, good, "", second, good), **settings)


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ("soon", "timestamp", "timestamp is 'soon'"),
        (17, "timestamp", "timestamp is 17, .*feedback.columns.timestamp=null"),
        ("maybe", "finished", "'finished' is 'maybe'"),
        ("five", "score", "score is 'five'"),
        ("dev", "split", "must be 'train' or 'test'"),
    ],
)
def test_bad_optional_values(tmp_path: Path, value: Any, field: str, message: str) -> None:
    with pytest.raises(LabError, match=rf"thumbs\.jsonl:1: .*{message}"):
        read(jsonl(tmp_path, thumb(extra=value)), {field: "extra"})


RANKED = [("Apple.", "A stone."), ("Pear.", "Apple."), ("Pear.", "A hat.")]


def test_a_pair_stays_a_pair_and_its_answers_have_a_thumb_from_each(tmp_path: Path) -> None:
    rows = [{"prompt": "Name a fruit.", "chosen": good, "rejected": bad} for good, bad in RANKED]
    columns = {"chosen": "chosen", "rejected": "rejected"}
    table = read(jsonl(tmp_path, *rows), columns)
    assert Counter(zip(table["completion"], table["desirable"], strict=True))[("Apple.", True)] == 1
    assert len(table) == len(set(table["example_id"])) == 6
    found = make_pairs(table, seed=0)
    assert sorted((table[int(a)]["completion"], table[int(b)]["completion"]) for a, b in found) == sorted(RANKED)
    again = read(jsonl(tmp_path, *rows[::-1]), columns)
    assert set(again["example_id"]) == set(table["example_id"]) and set(again["pair_id"]) == set(table["pair_id"])


def test_a_pair_that_is_there_twice_is_two_pairs_and_one_of_an_answer_with_itself_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": bad} for bad in ("b", "b", "a")]
    table = read(jsonl(tmp_path, *rows), {"chosen": "chosen", "rejected": "rejected"})
    assert len(table) == len(set(table["example_id"])) == 4 and len(make_pairs(table, seed=0)) == 2
    assert "left out 1 pairs of an answer with itself" in capsys.readouterr().out


def test_repeated_thumbs_are_examples_each(tmp_path: Path) -> None:
    rows = [thumb(label=n < 3) for n in range(4)]
    table = read(jsonl(tmp_path, *rows))
    assert table["desirable"][:] == [True, True, True, False] and len(set(table["example_id"])) == 4
    assert make_units(table, Feed.THUMBS, None, seed=0)[0] == [(0,), (1,), (2,), (3,)], "each is trained on"


def test_pairs_must_share_their_prompt(tmp_path: Path) -> None:
    talks = [[{"role": "user", "content": text}, {"role": "assistant", "content": "Hi."}] for text in ("a", "b")]
    file = jsonl(tmp_path, {"yes": talks[0], "no": talks[1]})
    with pytest.raises(LabError, match=r"thumbs\.jsonl:1: the two completions do not answer the same prompt"):
        read(file, {"prompt": None, "chosen": "yes", "rejected": "no"})


def test_csv_errors_name_the_line_where_the_row_starts(tmp_path: Path) -> None:
    file = tmp_path / "thumbs.csv"
    head = 'prompt,completion,label\n"two\nlines","three\n\nlines",true\n'
    file.write_text(head + "\np,c,maybe\n")
    with pytest.raises(LabError, match=r"thumbs\.csv:7: the label is 'maybe'"):
        read(file)
    file.write_text(head + "p,,true\n")
    with pytest.raises(LabError, match=r"thumbs\.csv:6: the completion is empty"):
        read(file)
    file.write_text(head + "p,c\n")
    with pytest.raises(LabError, match=r"thumbs\.csv:6: the row has 2 cells, the header 3"):
        read(file)
    file.write_text(head + 'p,"never closed,true\nq,c,true\n')
    with pytest.raises(LabError, match=r"thumbs\.csv:6: broken CSV"):
        read(file)
    file.write_text("prompt,label,label\n")
    with pytest.raises(LabError, match=r"thumbs\.csv:1: the column 'label' is there more than once"):
        read(file)
    file.write_text("prompt,answer,label\np,c,true\n")
    with pytest.raises(
        LabError, match=r"no column 'completion' .* There are: prompt, answer, label.*columns\.completion="
    ):
        read(file)


def test_long_csv_cells_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"prompt,completion,label\np,{'word ' * 40_000},true\n")
    assert len(read(tmp_path / "t.csv")["completion"][0]) == 200_000


@pytest.mark.parametrize("name", ["thumbs.jsonl", "thumbs.csv"])
def test_wrong_encoding_names_the_line(tmp_path: Path, name: str) -> None:
    first = (
        b'{"prompt": "p", "completion": "c", "label": true}\n'
        if name.endswith("jsonl")
        else b"prompt,completion,label\n"
    )
    (tmp_path / name).write_bytes(first + "caf\xe9".encode("latin-1") + b"\n")
    with pytest.raises(LabError, match=rf"{re.escape(name)}:2: this is no UTF-8 text"):
        read(tmp_path / name)


def test_bad_parquet(tmp_path: Path) -> None:
    file = tmp_path / "thumbs.parquet"
    file.write_text("not parquet")
    with pytest.raises(LabError, match="no readable Parquet file"):
        read(file)
    pq.write_table(pa.Table.from_pylist([thumb(), thumb(completion=None)]), file)
    with pytest.raises(LabError, match=r"thumbs\.parquet, row 2: the completion is empty"):
        read(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="there is no file"):
        read(tmp_path / "absent.jsonl")
    (tmp_path / "thumbs.txt").write_text("{}")
    with pytest.raises(LabError, match="what kind of file"):
        read(tmp_path / "thumbs.txt")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(LabError, match="the file is empty"):
        read(tmp_path / "empty.csv")
    (tmp_path / "header.csv").write_text("prompt,completion,label\n")
    with pytest.raises(LabError, match="there is no example"):
        read(tmp_path / "header.csv")
    (tmp_path / "thumbs.txt").write_text(json.dumps(thumb()))
    assert len(read(tmp_path / "thumbs.txt", container="jsonl")) == 1
    with pytest.raises(LabError, match=r"feedback\.container"):
        read(tmp_path / "thumbs.txt", container="xml")


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"answer": "a"}, {}, "no field 'answer'"),
        ({"completion": None}, {}, "columns.completion names no column"),
        ({"chosen": "a"}, {}, "columns.rejected names no column"),
        ({"score_chosen": "a"}, {}, "columns.chosen names no column"),
        ({"chosen": "a", "rejected": "b", "score": "c"}, {}, "Use score_chosen"),
        ({"chosen": "a", "rejected": "b"}, STARS, "pairs have none"),
        ({}, {"up_from": 4}, "go together"),
        ({}, {"up_from": 2, "down_to": 2}, "the first must be the smaller"),
        ({}, {"constant_prompt": "Q"}, "columns.prompt names a column of prompts"),
        ({"prompt": None}, {"constant_prompt": " "}, "constant_prompt is empty"),
        ({"prompt": None, "input": "i"}, {}, "columns.input is appended"),
        ({}, {"ignore": ["prompt"]}, "which feedback.columns reads"),
        ({}, {"ignore": "comment"}, "must be a list"),
        ({}, {"lists": "both"}, "must be one of turns, alternatives, text"),
        ({"chosen": "a", "rejected": "b"}, {"lists": "alternatives"}, "not for pairs"),
        ({}, {"cut_at": 0}, "cut_at is 0"),
        ({}, {"labels": {"up": "yes"}}, "maps 'up' to 'yes'"),
        ({}, {"min_certainty": 1.0}, "go together"),
        ({"certainty": "c"}, {}, "go together"),
        ({}, {"bad_rows": "ignore"}, "must be 'error' or 'drop'"),
        ({"rater": "usr"}, {}, "no column 'usr' for the rater. There are: prompt, completion, label"),
    ],
)
def test_settings_that_contradict(tmp_path: Path, columns: dict, settings: dict, message: str) -> None:
    with pytest.raises(LabError, match=message):
        read(jsonl(tmp_path, thumb()), columns, **settings)


def test_a_parquet_file_of_one_row_millions_of_times_is_refused_unread(tmp_path: Path) -> None:
    same = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000_000, pa.int32()), pa.array(["again"]))
    file = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"prompt": same, "completion": same, "label": same}), file)
    assert file.stat().st_size < 100_000
    with pytest.raises(LabError, match=r"bomb\.parquet says that its .* bytes hold 2,000,000 rows"):
        read(file)
