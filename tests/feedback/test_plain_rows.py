"""The short way through the mapping and the whole way give the same rows."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kto_lab.errors import LabError
from kto_lab.feedback import survey
from kto_lab.feedback.file import from_file
from kto_lab.feedback.layout import layout
from kto_lab.feedback.mapping import _label, _score, _text, _timestamp, rows_of
from kto_lab.feedback.plain_blocks import PlainBlocks, Readers
from kto_lab.feedback.plain_rows import PlainRows
from kto_lab.feedback.rows import Reading, arrow_rows, csv_columns, csv_rows, existing, read_blocks, read_rows
from kto_lab.feedback.rows.blocks import Columns
from tests.feedback.test_rows import by_feedback, conf

COLUMNS = {"prompt": "prompt", "completion": "completion", "label": "label"}
TEXTS = [
    "Say hi.",
    " Say hi.",
    "",
    " ",
    "[1, 2]",
    '[{"role": "user", "content": "Hi"}]',
    "{}",
    "\n\nHuman: a",
    "ß",
    "\0",
]
CELLS = st.sampled_from([*TEXTS, None, 1, 2.5, True, ["a"], [{"role": "assistant", "content": "Hi"}], {}]) | st.text()
LABELS = st.sampled_from([True, False, 1, 0, -1, 1.0, "yes", "No", "👎", "maybe", "skip", "", None, [], {"a": 1}])
WAYS: list[dict[str, Any]] = [
    {},
    {"chat": "system"},
    {"chat": "all"},
    {"lists": "turns"},
    {"lists": "alternatives"},
    {"labels": {"skip": None, "maybe": True}},
    {"up_from": 1, "down_to": 0},
    {"columns": {**COLUMNS, "rater": "rater"}},
    {"columns": {**COLUMNS, "prompt": None}, "constant_prompt": "Q"},
]


def outcome(way: Any, *words: Any) -> Any:
    try:
        return way(*words)
    except LabError as error:
        return str(error)


@given(way=st.sampled_from(WAYS), prompt=CELLS, completion=CELLS, label=LABELS, lacks=st.sampled_from(["", *COLUMNS]))
def test_a_plain_row_is_what_the_whole_way_makes_of_it(
    way: Mapping[str, Any], prompt: Any, completion: Any, label: Any, lacks: str
) -> None:
    how = layout(**{"columns": COLUMNS, **way})
    raw = {"prompt": prompt, "completion": completion, "label": label, "rater": "x"}
    raw.pop(lacks, None)
    plain = PlainRows(how, _label)
    # The second time what the label says is remembered.
    for _ in range(2):
        found = outcome(plain.rows, raw, "row 1")
        assert found is None or found == outcome(rows_of, raw, "row 1", how)


def test_the_commonest_row_is_plain() -> None:
    raw = {"prompt": "Say hi.", "completion": "Hi.", "label": True}
    assert PlainRows(layout(COLUMNS), _label).rows(raw, "row 1") == rows_of(raw, "row 1", layout(COLUMNS))


BLOCK_WAYS: list[dict[str, Any]] = [
    {},
    {"bad_rows": "drop"},
    {"labels": {"skip": None, "maybe": True}, "bad_rows": "drop"},
    {"up_from": 1, "down_to": 0},
    {"columns": {**COLUMNS, "rater": "rater", "score": "score", "timestamp": "when", "group": "kind"}},
    {"columns": {**COLUMNS, "rater": "rater", "score": "score", "timestamp": "when"}, "bad_rows": "drop"},
    {"lists": "text"},
    {"cut_at": 3},
]
WORDS = st.sampled_from(["Say hi.", 'Say "hi", or not;', "two\nlines", "two\r\nlines", "ß\u2028", *TEXTS]) | st.text()
ROW = st.fixed_dictionaries(
    {
        "prompt": WORDS | st.none(),
        "completion": st.sampled_from(["Hi.", "Hi!", "Ho.", "a\tb"]) | WORDS,
        "label": st.sampled_from(["yes", "no", "skip", "maybe", "1", "0", ""]),
    },
    optional={
        "rater": st.sampled_from(["a", "b", "", None]),
        "score": st.sampled_from(["1", "2.5", "x", None]),
        "when": st.sampled_from(["2026-01-31", "31/01/2026", "yesterday", None]),
        "kind": st.sampled_from(["k", None]),
        "extra": st.sampled_from(["", "x", None]),
    },
)
PLAIN_ROW = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["p", "q", "p, q"]),
        "completion": st.sampled_from(["Hi.", "Ho.", 'He said "ho".', "two\nlines"]),
        "label": st.sampled_from(["yes", "no"]),
        "rater": st.sampled_from(["a", "b"]),
        "score": st.sampled_from(["1", "2.5"]),
        "when": st.sampled_from(["2026-01-31", "2026-02-01T10:00:00+01:00"]),
        "kind": st.sampled_from(["k", "l"]),
        "extra": st.sampled_from(["", "x"]),
    }
)


def written(rows: list[dict[str, Any]], folder: Path, kind: str) -> Path:
    """Rows as a file of a kind."""
    file = folder / f"t.{kind}"
    names = list(dict.fromkeys(name for row in rows for name in row))
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        with file.open("w", newline="", errors="surrogatepass") as target:
            cells = csv.DictWriter(target, names, lineterminator="\n" if rows[0].get("extra") else "\r\n")
            cells.writeheader()
            cells.writerows(rows)
    else:
        columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
        pq.write_table(pa.table(columns), file)
    return file


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(PLAIN_ROW, min_size=1, max_size=8) | st.lists(ROW | PLAIN_ROW, min_size=1, max_size=5),
    way=st.sampled_from(BLOCK_WAYS),
    kind=st.sampled_from(["jsonl", "csv", "parquet"]),
)
def test_blocks_of_rows_give_the_table_that_rows_give(
    rows: list[dict[str, Any]], way: Mapping[str, Any], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(written(rows, tmp_path, kind))

    def read() -> Any:
        found = outcome(lambda: from_file(**conf("feedback", path, held_out=0.5, **way)).to_list())
        return found, capsys.readouterr().out

    by_block = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainBlocks, "thumbs", lambda *_: None)
        patch.setattr(survey, "are_words", lambda *_: False)
        patch.setattr(csv_rows, "plain_header", lambda *_: None)
        patch.setattr(arrow_rows, "plain_types", lambda *_: False)
        assert read() == by_block


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_commonest_block_is_plain(tmp_path: Path, kind: str) -> None:
    rows = [{"prompt": "Say hi, or\nnot.", "completion": 'Hi "you".', "label": word} for word in ("yes", "no", "skip")]
    (block,) = read_blocks(existing(str(written(rows, tmp_path, kind)), "k"), Reading())
    how = layout(COLUMNS, labels={"skip": None})
    thumbs = PlainBlocks(how, Readers(_label, _score, _timestamp, _text)).thumbs(block)
    assert thumbs is not None
    assert thumbs.completions.to_pylist() == ['Hi "you".'] * 2 and thumbs.desirable == [True, False]
    assert kind == "jsonl" or isinstance(block, Columns)


TEXT_OF_CSV = st.lists(
    st.sampled_from(
        ["a", "ß", ",", ";", '"', '""', "\n", "\r\n", "\r", " ", "x,y\n", '"q"\n', '"a\nb",c\n', "\0", "\ufeff"]
    ),
    max_size=30,
).map("".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=TEXT_OF_CSV, size=st.integers(1, 40), header=st.sampled_from(["x,y\n", '"x",y\r\n', "x\n", "\n\nx,y\n", ""])
)
def test_csv_by_columns_is_csv_by_rows(text: str, size: int, header: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes((header + text + "\n").encode())

    def read() -> Any:
        return outcome(lambda: list(read_rows(existing(str(tmp_path / "t.csv"), "k"), Reading(delimiter=","))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_rows, "CHUNK", size)
        patch.setattr(csv_columns, "CHUNK", size)
        by_column = read()
        patch.setattr(csv_rows, "plain_header", lambda *_: None)
        assert read() == by_column


def test_the_first_look_is_the_same_by_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [True, True, False, 1, "yes", "YES", "no", 0]
    rows = [{"prompt": f"p{n}", "completion": "c", "label": label, "extra": n} for n, label in enumerate(labels)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    short = by_feedback(str(tmp_path / "t.jsonl")), capsys.readouterr().out
    monkeypatch.setattr(PlainBlocks, "thumbs", lambda *_: None)
    monkeypatch.setattr(survey, "are_words", lambda *_: False)
    monkeypatch.setattr(survey, "begins_with_a_word", lambda value: False)
    monkeypatch.setattr(survey, "_LABELS", 0)
    monkeypatch.setattr(PlainRows, "rows", lambda *_: None)
    assert (by_feedback(str(tmp_path / "t.jsonl")), capsys.readouterr().out) == short and "'extra'" in short[1]
