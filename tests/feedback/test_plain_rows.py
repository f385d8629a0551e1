"""The short way through the mapping and the whole way give the same rows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_lab.errors import LabError
from kto_lab.feedback import survey
from kto_lab.feedback.layout import layout
from kto_lab.feedback.mapping import _label, rows_of
from kto_lab.feedback.plain_rows import PlainRows
from tests.feedback.test_rows import by_feedback

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


def test_the_first_look_is_the_same_by_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [True, True, False, 1, "yes", "YES", "no", 0]
    rows = [{"prompt": f"p{n}", "completion": "c", "label": label, "extra": n} for n, label in enumerate(labels)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    short = by_feedback(str(tmp_path / "t.jsonl")), capsys.readouterr().out
    monkeypatch.setattr(survey, "begins_with_a_word", lambda value: False)
    monkeypatch.setattr(survey, "_LABELS", 0)
    monkeypatch.setattr(PlainRows, "rows", lambda *_: None)
    assert (by_feedback(str(tmp_path / "t.jsonl")), capsys.readouterr().out) == short and "'extra'" in short[1]
