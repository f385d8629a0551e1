import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.rows import settings as reader
from kto_lab.importing.thumbs import Reason, Row
from tests.importing.exports.export_cases import read, reasons, thumbs_of

FIXTURE = Path(__file__).parent / "fixtures" / "thumbs.csv"
COLUMNS = {"prompt": "question", "completion": "answer", "label": "thumb", "rater": "user", "timestamp": "when"}
THUMB = {"prompt": "Say hi.", "completion": "Hi.", "label": True}


def written(folder: Path, content: str | bytes, name: str = "thumbs.jsonl") -> str:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def jsonl(folder: Path, *rows: Any) -> str:
    return written(folder, "".join(json.dumps(row) + "\n" for row in rows))


def test_a_csv_row_is_taken_or_has_its_reason_and_its_line() -> None:
    rows = read("file", path=str(FIXTURE), columns=COLUMNS, timezone="Europe/Berlin")
    assert [(thumb.completion, thumb.desirable, thumb.timestamp) for thumb in thumbs_of(rows)] == [
        ("4", True, "2026-05-01T07:30:00Z"),
        ("5", False, "2026-05-01T09:30:00Z"),
        ('Yes, "two".', True, None),
    ]
    assert reasons(rows) == {
        "thumbs.csv:4": Reason.NO_COMPLETION,
        "thumbs.csv:5": Reason.NO_PROMPT,
        "thumbs.csv:6": Reason.UNKNOWN_THUMB,
        "thumbs.csv:7": Reason.NO_THUMB,
        "thumbs.csv:10": Reason.UNREADABLE,
    }
    assert len(rows) == 8 and thumbs_of(rows)[-1].where == "thumbs.csv:8"


@pytest.mark.parametrize(
    ("later", "earlier", "moment"),
    [
        ("03/15/2026 10:00 AM", "03/04/2026 10:00 AM", "2026-03-04T10:00:00Z"),
        ("15.03.2026 10:00", "04.03.2026 10:00", "2026-03-04T10:00:00Z"),
        ({"$date": 1773568800000}, {"$date": "2026-03-04T10:00:00Z"}, "2026-03-04T10:00:00Z"),
        ("Sun, 15 Mar 2026 10:00:00 GMT", "04/03/2026", None),
        ("yesterday", "", None),
    ],
)
def test_times_are_read_as_their_column_has_them_and_what_is_unread_is_shown(
    tmp_path: Path, later: Any, earlier: Any, moment: str | None
) -> None:
    for order in ([later, earlier], [earlier, later]):
        file = jsonl(tmp_path, *({**THUMB, "when": when} for when in order))
        if earlier == "04/03/2026":
            with pytest.raises(LabError, match=r"export\.columns\.timestamp.*04/03/2026.*Set export\.day_first="):
                read("file", path=file, columns={"timestamp": "when"})
            thumbs = thumbs_of(read("file", path=file, columns={"timestamp": "when"}, day_first=True))
            assert thumbs[order.index(earlier)].timestamp == "2026-03-04T00:00:00Z"
            continue
        thumbs = thumbs_of(read("file", path=file, columns={"timestamp": "when"}))
        found = thumbs[order.index(earlier)]
        assert (found.timestamp, found.unread_time) == (moment, None)
        other = thumbs[order.index(later)]
        assert other.unread_time == ("'yesterday'" if moment is None else None)


def test_the_two_answers_of_a_row_are_a_pair_and_ids_are_kept(tmp_path: Path) -> None:
    row = {"prompt": "Name a fruit.", "chosen": "Apple.", "rejected": "A stone.", "id": 7}
    (found,) = read("file", path=jsonl(tmp_path, row), columns={"chosen": "chosen", "rejected": "rejected", "id": "id"})
    assert [(thumb.pair, thumb.identity, thumb.desirable) for thumb in found.thumbs] == [
        ("thumbs.jsonl:1", "7", True),
        ("thumbs.jsonl:1", "7", False),
    ]


def test_the_formats_give_the_same_thumbs(tmp_path: Path) -> None:
    table = [{**THUMB, "label": label, "completion": answer} for label, answer in (("up", "Hi."), ("down", "No."))]
    files = [
        jsonl(tmp_path, *table),
        written(tmp_path, json.dumps(table, indent=1), "thumbs.json"),
        written(tmp_path, 'prompt,completion,label\nSay hi.,Hi.,up\n"Say hi.",No.,down\n', "thumbs.csv"),
        str(tmp_path / "thumbs.parquet"),
    ]
    pq.write_table(pa.Table.from_pylist(table), files[-1])
    found = [[(t.prompt, t.completion, t.desirable) for t in thumbs_of(read("file", path=file))] for file in files]
    assert found == [[("Say hi.", "Hi.", True), ("Say hi.", "No.", False)]] * 4


def test_a_broken_element_of_a_list_costs_one_row(tmp_path: Path) -> None:
    good = json.dumps(THUMB)
    text = f'[{good}, {{"prompt": nope}}, 7, null, {good}, {{"prompt": "a\\"]}}"}}, {good}] trailing'
    rows = read("file", path=written(tmp_path, text, "thumbs.json"))
    assert [len(row.thumbs) for row in rows] == [1, 0, 0, 0, 1, 0, 1, 0]
    assert [row.left_out[0].reason for row in rows if row.left_out][:3] == [Reason.UNREADABLE] * 3
    assert rows[-1].left_out[0].where == "thumbs.json[7]"


@pytest.mark.parametrize("end", [-1, -3, -30])
def test_a_list_that_is_cut_off_says_so(tmp_path: Path, end: int) -> None:
    rows = read("file", path=written(tmp_path, json.dumps([THUMB, THUMB])[:end], "thumbs.json"))
    assert len(thumbs_of(rows)) == (2 if end == -1 else 1)
    assert "the file ends" in rows[-1].left_out[0].detail


@pytest.mark.parametrize("name", ["thumbs.json", "thumbs.jsonl", "thumbs.csv"])
def test_bytes_that_are_no_utf8_cost_one_row(tmp_path: Path, name: str) -> None:
    rows = [json.dumps({**THUMB, "completion": text}) for text in ("Hi.", "HERE", "Ho.")]
    texts = {
        "thumbs.json": f"[{','.join(rows)}]",
        "thumbs.jsonl": "\n".join(rows),
        "thumbs.csv": "prompt,completion,label\n" + "".join(f"Say hi.,{text},up\n" for text in ("Hi.", "HERE", "Ho.")),
    }
    found = read("file", path=written(tmp_path, texts[name].encode().replace(b"HERE", b"caf\xe9"), name))
    assert [len(row.thumbs) for row in found] == [1, 0, 1]
    assert found[1].left_out[0].reason is Reason.UNREADABLE and "UTF-8" in found[1].left_out[0].detail


def test_a_large_cell_and_deep_nesting_are_read_or_left_out(tmp_path: Path) -> None:
    deep = '{"prompt": ' + "[" * 10**5 + "]" * 10**5 + "}"
    text = f"[{json.dumps({**THUMB, 'completion': 'x' * 10**7})}, {deep}, {json.dumps(THUMB)}]"
    rows = read("file", path=written(tmp_path, text, "thumbs.json"))
    assert [len(row.thumbs) for row in rows] == [1, 0, 1] and len(rows[0].thumbs[0].completion) == 10**7


def test_what_has_no_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "LARGEST", 2**19)
    path = written(tmp_path, '[{"prompt": "' + "x" * 2**21, "thumbs.json")
    (row,) = read("file", path=path)
    assert "with no end" in row.left_out[0].detail
    path = written(tmp_path, "x" * 2**21 + "\n" + json.dumps(THUMB))
    assert [len(row.thumbs) for row in read("file", path=path)] == [0, 1]


def test_ratings_pairs_and_conversations(tmp_path: Path) -> None:
    stars = [{"prompt": "Hi", "completion": "Ho", "stars": n} for n in (5, 3, "1", True)]
    rows = read("file", path=jsonl(tmp_path, *stars), columns={"label": "stars"}, up_from=4, down_to=2)
    assert [(t.desirable, t.score, t.signal) for t in thumbs_of(rows)][:2] == [
        (True, 5.0, "rating"),
        (False, 1.0, "rating"),
    ]
    assert reasons(rows) == {"thumbs.jsonl:2": Reason.NO_THUMB}
    pair = {"prompt": "Hi", "chosen": "Ho", "rejected": "No", "a": 9, "b": 2}
    names = {"chosen": "chosen", "rejected": "rejected", "score_chosen": "a", "score_rejected": "b"}
    thumbs = thumbs_of(read("file", path=jsonl(tmp_path, pair), columns=names))
    assert [(t.completion, t.desirable, t.score, t.signal) for t in thumbs] == [
        ("Ho", True, 9.0, "vote"),
        ("No", False, 2.0, "vote"),
    ]
    talk = [
        {"role": "developer", "content": "Be brief."},
        {"role": "human", "content": [{"type": "text", "text": "Hi"}]},
    ]
    chat = {"completion": [*talk, {"role": "assistant", "content": "Ho"}], "label": 1}
    (thumb,) = thumbs_of(read("file", path=jsonl(tmp_path, chat), columns={"prompt": None}))
    assert thumb.prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def test_the_same_identity_with_the_same_thumb_counts_once(tmp_path: Path) -> None:
    rows = [{**THUMB, "id": 1}, {**THUMB, "id": 1}, {**THUMB, "id": 1, "label": False}, {**THUMB, "id": None}, THUMB]
    found = read("file", path=jsonl(tmp_path, *rows), columns={"id": "id"})
    assert [len(row.thumbs) for row in found] == [1, 0, 1, 1, 1]
    assert found[1].left_out[0].reason is Reason.DUPLICATE_ID


def test_a_column_that_is_nowhere_is_an_error_of_the_whole(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"'score'.*export\.columns\.label=<column>"):
        read("file", path=jsonl(tmp_path, THUMB), columns={"label": "score"})
    path = written(tmp_path, "prompt,label\nHi,up\n", "thumbs.csv")
    with pytest.raises(LabError, match="'completion'"):
        read("file", path=path)


def test_what_is_wrong_with_the_whole_is_said(tmp_path: Path) -> None:
    def fails(match: str, content: str | bytes = json.dumps(THUMB), name: str = "thumbs.jsonl", **changes: Any) -> None:
        with pytest.raises(LabError, match=match):
            read("file", path=written(tmp_path, content, name), **changes)

    fails("empty", "")
    fails("There are: data", '{\n"data": []}')
    fails("more than once", "a,a\n1,2\n", "thumbs.csv")
    fails("Parquet", b"PAR1 no", "thumbs.parquet")
    fails("Europe/Atlantis", timezone="Europe/Atlantis")
    fails("smaller", up_from=1, down_to=1)
    fails("no field 'promt'", columns={"promt": "x"})
    fails("labels maps", labels={"up": "yes"})
    fails("container", container="xml")
    with pytest.raises(LabError, match="no file"):
        read("file", path=str(tmp_path / "gone.jsonl"))


def test_rows_of_parquet_that_python_cannot_hold_are_left_out(tmp_path: Path) -> None:
    when = pa.array([1777627800 * 10**9, 1, None], pa.timestamp("ns", "UTC"))
    late = pa.array([0, 2**62, 0], pa.timestamp("us"))
    texts = pa.array(["Hi", "Ho", "He"])
    table = pa.table({"prompt": texts, "completion": texts, "label": pa.array([1, 0, 1]), "when": when, "late": late})
    pq.write_table(table, tmp_path / "thumbs.parquet")
    rows: list[Row] = read("file", path=str(tmp_path / "thumbs.parquet"), columns={"timestamp": "when"})
    assert [len(row.thumbs) for row in rows] == [1, 0, 1]
    assert rows[0].thumbs[0].timestamp == "2026-05-01T09:30:00Z"


def test_an_answer_whose_end_is_not_known_does_not_count_as_finished(tmp_path: Path) -> None:
    cells = [True, "FALSE", 0, 0.0, "0.0", "no", None, "", "length", 2]
    rows = read("file", path=jsonl(tmp_path, *({**THUMB, "end": cell} for cell in cells)), columns={"finished": "end"})
    assert [thumb.finished for thumb in thumbs_of(rows)] == [True, *[False] * 5, True, True]
    assert reasons(rows) == {"thumbs.jsonl:9": Reason.UNREADABLE, "thumbs.jsonl:10": Reason.UNREADABLE}


def test_people_whom_an_object_names_are_different_people(tmp_path: Path) -> None:
    file = jsonl(tmp_path, *({**THUMB, "user": {"$oid": name}} for name in ("a", "b")))
    assert [thumb.rater for thumb in thumbs_of(read("file", path=file, columns={"rater": "user"}))] == ["a", "b"]
