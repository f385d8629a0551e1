"""Every container, packed or not, in any encoding: every reader of files finds the same rows."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import yaml

from kto_lab.errors import LabError
from kto_lab.feedback import file as feedback_file
from kto_lab.feedback import prompts
from kto_lab.feedback import rows as reading
from kto_lab.feedback.rows import Reading, Unreadable, existing, files, read_rows, settings
from kto_lab.importing.exports.file import FileExport
from kto_lab.labeling.answers import File

CONF = Path(__file__).parents[2] / "conf"
ROWS = [
    {"prompt": f"Say {word}.", "completion": answer, "label": label}
    for word, answer, label in (("hi", "Hi.", True), ("no", "„Nein“ – nie.", False), ("ja", "Öl; a|b,\tc", True))
]


def lines(rows: list[dict[str, Any]] = ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def cells(delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def zipped(content: bytes, *names: str) -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ("thumbs.jsonl",):
            archive.writestr(name, content)
    return into.getvalue()


def table(write: Callable[[pa.Table, Any], None]) -> bytes:
    into = io.BytesIO()
    write(pa.Table.from_pylist(ROWS), into)
    return into.getvalue()


def stream(rows: pa.Table, into: io.BytesIO) -> None:
    with pa.ipc.new_stream(into, rows.schema) as writer:
        writer.write_table(rows)


def arrow_file(rows: pa.Table, into: io.BytesIO) -> None:
    pyarrow.feather.write_feather(rows, into)


DRESSES: dict[str, bytes] = {
    "lines.jsonl": lines().encode(),
    "list.json": json.dumps(ROWS, indent=1).encode(),
    "objects.json": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "mark.jsonl": lines().encode("utf-8-sig"),
    "utf16.jsonl": lines().encode("utf-16"),
    "utf16.json": json.dumps(ROWS, ensure_ascii=False).encode("utf-16-le"),
    "utf32.csv": cells().encode("utf-32"),
    "utf16.csv": cells().encode("utf-16"),
    "utf16be.tsv": cells("\t").encode("utf-16-be"),
    "commas.csv": cells().encode("utf-8-sig"),
    "semicolons.csv": cells(";").encode(),
    "tabs.tsv": cells("\t").encode(),
    "tabs.csv": cells("\t").encode(),
    "bars.csv": cells("|").encode(),
    "votes.parquet": table(pq.write_table),
    "stream.arrow": table(stream),
    "file.arrow": table(arrow_file),
    "table.feather": table(arrow_file),
    "lines.jsonl.gz": gzip.compress(lines().encode()),
    "two.jsonl.gz": gzip.compress(lines(ROWS[:1]).encode()) + gzip.compress(lines(ROWS[1:]).encode()),
    "list.json.zst": zstd(json.dumps(ROWS).encode()),
    "commas.csv.bz2": bz2.compress(cells().encode()),
    "lines.jsonl.xz": lzma.compress(lines().encode("utf-16")),
    "votes.parquet.gz": gzip.compress(table(pq.write_table)),
    "table.feather.zst": zstd(table(arrow_file)),
    "stream.arrow.gz": gzip.compress(table(stream)),
    "lines.zip": zipped(lines().encode()),
    "thumbs.csv.zip": zipped(cells(";").encode(), "thumbs.csv", "__MACOSX/._thumbs.csv"),
}


def conf(group: str, path: Any, **changes: Any) -> dict[str, Any]:
    """The settings of a group's option `file`."""
    values = yaml.safe_load((CONF / group / "file.yaml").read_text())
    del values["_target_"]
    return {**values, "path": path, **changes}


def by_feedback(path: Any, **changes: Any) -> list[tuple[str, str, bool]]:
    found = feedback_file.from_file(**conf("feedback", path, held_out=0.0, **changes))
    return [(row["prompt"], row["completion"], row["desirable"]) for row in found]


def by_export(path: Any, **changes: Any) -> list[tuple[str, str, bool]]:
    rows = FileExport(**conf("export", path, **changes)).read()
    return [(one.prompt, one.completion, one.desirable) for row in rows for one in getattr(row, "thumbs", ())]


def by_answers(path: Any, **changes: Any) -> list[tuple[str, str, bool]]:
    named = conf("answers", path, **changes)
    found = File(**{**named, "columns": {**named["columns"], "label": "label"}}).read([])
    return [(one.prompt, one.completion, one.thumb) for one in found]


READERS = {"feedback": by_feedback, "export": by_export, "answers": by_answers}
RIGHT = [tuple(row.values()) for row in ROWS]


@pytest.mark.parametrize("name", DRESSES)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_each_dress_holds_the_same_rows_for_each_reader(tmp_path: Path, name: str, read: Callable[..., Any]) -> None:
    (tmp_path / name).write_bytes(DRESSES[name])
    assert read(str(tmp_path / name)) == RIGHT


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_several_files_are_one_table(tmp_path: Path, read: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shards = tmp_path / "shards"
    (shards / ".cache").mkdir(parents=True)
    (shards / "part-1.jsonl").write_text(lines(ROWS[:1]))
    (shards / "part-2.jsonl.gz").write_bytes(gzip.compress(lines(ROWS[1:]).encode()))
    (shards / "README.md").write_text("No rows.")
    parts = [str(shards / "part-1.jsonl"), str(shards / "part-2.jsonl.gz")]
    for path in (str(shards), str(shards / "*.jsonl*"), str(tmp_path / "**" / "part*"), parts, [str(shards)]):
        assert read(path) == RIGHT
    assert read(parts[::-1]) == [*RIGHT[1:], RIGHT[0]]
    monkeypatch.chdir(shards)
    assert read("*.gz") == RIGHT[1:]


@pytest.mark.parametrize("content", [lines().encode(), json.dumps(ROWS).encode(), gzip.compress(lines().encode())])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_standard_input_can_be_read_more_than_once(
    monkeypatch: pytest.MonkeyPatch, content: bytes, read: Callable[..., Any]
) -> None:
    piped(monkeypatch, content)
    assert read("-") == RIGHT == read("-")


def test_standard_input_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, cells().encode())
    with pytest.raises(LabError, match=r"what kind of rows does standard input hold.*feedback\.container"):
        by_feedback("-")
    assert by_feedback("-", container="csv") == RIGHT
    piped(monkeypatch, b"")
    with pytest.raises(LabError, match="it is empty"):
        by_feedback("-")


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    files.standard_input.cache_clear()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_prompts_are_read_by_the_same_reader(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+1=", "checks": {"checker": "arithmetic", "answer": str(n + 1)}} for n in range(2)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(rows[:1]).encode("utf-16")))
    (tmp_path / "b.json").write_text(json.dumps(rows[1:]))
    found = prompts.from_file(**conf("prompts", [str(tmp_path / "*.gz"), str(tmp_path / "b.json")]))
    assert [one.prompt for one in found] == ["0+1=", "1+1="]
    with pytest.raises(LabError, match=r"prompts\.encoding"):
        prompts.from_file(**conf("prompts", str(tmp_path / "b.json"), encoding="utf8000"))


@pytest.mark.parametrize("name", ["windows.csv", "windows.jsonl", "windows.json"])
@pytest.mark.parametrize("node", READERS)
def test_a_windows_code_page_is_read_by_its_key_and_else_the_key_is_named(tmp_path: Path, name: str, node: str) -> None:
    text = {"csv": cells(), "jsonl": lines(), "json": json.dumps(ROWS, ensure_ascii=False)}[name.split(".")[1]]
    path = tmp_path / name
    path.write_bytes(text.encode("cp1252"))
    read = READERS[node]
    assert read(str(path), encoding="cp1252") == RIGHT
    if node == "export":
        assert [row[1] for row in read(str(path))] == ["Hi."]
    else:
        place = {"csv": ":3", "jsonl": ":2", "json": r"\[1\]"}[name.split(".")[1]]
        with pytest.raises(LabError, match=rf"{name}{place}: this is no UTF-8 text.*{node}\.encoding .*likely cp1252"):
            read(str(path))
    with pytest.raises(LabError, match=rf"{name}:\d: this is no ascii text.*{node}\.encoding"):
        read(str(path), encoding="ascii")


def test_the_guess_of_an_encoding_knows_cyrillic() -> None:
    assert "cp1251" in settings.likely("Привет, как дела?".encode("cp1251"))
    assert "cp1252" in settings.likely("Schöne Grüße aus Köln".encode("cp1252"))


def test_csv_names_the_column_and_the_delimiter_is_a_key(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"prompt,completion,label\nSay hi.,caf\xe9,true\n")
    with pytest.raises(LabError, match=r"t\.csv:2: this is no UTF-8 text in the column 'completion'"):
        by_feedback(str(path))
    path.write_text("prompt~completion~label\nSay hi.~Hi, you; there~true\n")
    assert by_feedback(str(path), delimiter="~") == [("Say hi.", "Hi, you; there", True)]
    path.write_text("prompt;completion;label\nSay hi.;Hi.;true;x\n")
    with pytest.raises(LabError, match=r"t\.csv:2: the row has 4 cells.*semicolons.*feedback\.delimiter"):
        by_feedback(str(path))
    with pytest.raises(LabError, match=r"feedback\.delimiter is ';;'"):
        by_feedback(str(path), delimiter=";;")


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a;b,c\n1,0;2\n3;4\n", ";"),
        ("prompt,completion,label\n" + '"x;y;z;w",b,1\n' * 9, ","),
        ("only\none\n", ","),
        ('a|b\n"1,\n2"|3\n', "|"),
        ("", ","),
    ],
)
def test_the_delimiter_is_what_makes_rows_of_one_width(text: str, delimiter: str) -> None:
    assert reading.csv_rows.found_delimiter(text.encode()) == delimiter


def test_places_name_each_file(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.jsonl.gz").write_bytes(gzip.compress(b'{"x": 1}\n\nnope\n'))
    (tmp_path / "c.csv").write_text("x\n1\n")
    both = existing([str(tmp_path / "?" / "t.jsonl.gz"), str(tmp_path / "c.csv")], "k")
    found = list(read_rows(both, Reading(), short=True))
    assert [where.removeprefix(str(tmp_path) + "/") for where, _ in found] == [
        *(f"{folder}/t.jsonl.gz:{line}" for folder in "ab" for line in (1, 3)),
        "c.csv:2",
    ]
    assert isinstance(found[1][1], Unreadable) and found[-1][1] == {"x": "1"}


def test_what_names_no_file_says_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.jsonl").write_text(lines())

    def fails(path: Any, match: str) -> None:
        with pytest.raises(LabError, match=match):
            by_feedback(path)

    fails(str(tmp_path), r"feedback\.path: the folder .* holds no file that ends in .*It holds folders \(inner\)")
    fails(str(tmp_path / "*.csv"), r"feedback\.path: no file matches")
    fails([], "empty list")
    fails("", "feedback.path is empty")
    fails(7, "names no file")
    fails([str(tmp_path / "inner"), str(tmp_path / "gone.jsonl")], "there is no file")
    (tmp_path / "inner" / "b.csv").write_text(cells())
    fails(str(tmp_path / "inner"), r"several kinds: \.csv, \.jsonl.*feedback\.path='.*/\*\.csv'")
    (tmp_path / "inner" / "b.csv").write_text("")
    fails([str(tmp_path / "inner" / "b.csv")], "the file is empty")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.jsonl.gz",
            gzip.compress(lines().encode())[:-12],
            r"t\.jsonl\.gz cannot be unpacked \(gzip\).*Get the file",
        ),
        ("t.jsonl.xz", lzma.compress(lines().encode())[:-12], r"cannot be unpacked \(xz\)"),
        ("t.jsonl.bz2", bz2.compress(lines().encode())[:-4], r"cannot be unpacked \(bzip2\)"),
        ("t.jsonl.zst", zstd(lines().encode() * 99)[:-9], r"cannot be unpacked \(zstd\)|broken JSON"),
        (
            "t.zip",
            zipped(b"{}", "a.jsonl", "b.jsonl"),
            r"t\.zip: a zip file must hold one file.* 2: a\.jsonl, b\.jsonl",
        ),
        ("t.xlsx", zipped(b"{}", "[Content_Types].xml", "xl/workbook.xml"), "what kind of file|Excel workbook"),
        ("t.jsonl.zip", zipped(lines().encode())[:-30], r"cannot be unpacked \(zip\)"),
    ],
)
def test_a_packed_file_that_is_damaged_or_of_another_kind(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabError, match=message):
        by_feedback(str(tmp_path / name))


def test_a_bomb_is_refused_and_a_key_allows_what_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.jsonl.gz"
    row = lines(ROWS[:1]).encode()
    bomb.write_bytes(gzip.compress(row * 5000))
    monkeypatch.setattr(settings, "MANY_ROWS", 1000)
    monkeypatch.setattr(settings, "ROWS_PER_BYTE", 1)
    with pytest.raises(LabError, match=r"bomb\.jsonl\.gz says .* rows, .*feedback\.max_rows"):
        by_feedback(str(bomb))
    assert len(by_feedback(str(bomb), max_rows=5000)) == 5000
    with pytest.raises(LabError, match=r"more than 4,999 rows, and feedback\.max_rows is 4,999"):
        by_feedback(str(bomb), max_rows=4999)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    with pytest.raises(LabError, match=r"it has 3 rows, and export\.max_rows is 2\. Raise it"):
        by_export(str(tmp_path / "t.parquet"), max_rows=2)
    monkeypatch.setattr(reading.opening, "_PACKED_BYTES", 1000)
    monkeypatch.setattr(reading.opening, "_TIMES", 2)
    with pytest.raises(LabError, match="unpacks to more than 2 times its size"):
        by_feedback(str(bomb), max_rows=5000)


def test_numbers_and_texts_are_those_of_pythons_own_parser(tmp_path: Path) -> None:
    values = ["12345678901234567890123", '{"id": 98765432109876543210}', "NaN", '"\\ud800"', "-0", "1e400", "[1.5, 2]"]
    (tmp_path / "t.jsonl").write_text("".join(f'{{"x": {value}}}\n' for value in values))
    found = [raw for _, raw in read_rows(existing(str(tmp_path / "t.jsonl"), "k"), Reading())]
    assert repr(found) == repr([json.loads(f'{{"x": {value}}}') for value in values])


def test_a_key_that_is_null_throughout_is_absent(tmp_path: Path) -> None:
    messages = [{"role": None, "type": "human", "content": "Say hi."}]
    kind = pa.list_(pa.struct({"role": pa.string(), "type": pa.string(), "content": pa.string()}))
    columns = {"prompt": pa.array([messages], kind), "completion": ["Hi."], "label": [True]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert by_feedback(str(tmp_path / "t.parquet")) == [([{"role": "user", "content": "Say hi."}], "Hi.", True)]


@pytest.mark.parametrize("bad_rows", ["error", "drop"])
def test_a_column_that_is_null_throughout_is_named(tmp_path: Path, bad_rows: str) -> None:
    nothing = pa.array([None] * 3, pa.string())
    columns = {"prompt": ["a", "b", "c"], "completion": nothing, "label": [True, False, True]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    for read in (by_feedback, by_answers):
        with pytest.raises(LabError, match=r"'completion' .* is empty in all 3 rows.*columns\.completion"):
            read(str(tmp_path / "t.parquet"), bad_rows=bad_rows)
    with pytest.raises(LabError, match=r"'completion' .* is empty in all 3 rows.*export\.columns\.completion"):
        by_export(str(tmp_path / "t.parquet"))


def test_how_far_the_reading_is_shows_once_it_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    monkeypatch.setattr(reading, "_MEGABYTE", 1)
    shown: list[tuple[str, int]] = []

    class Narrator(reading.narration.Plain):
        def progress(self, description: str, total: int, *, done: int) -> Any:
            shown.append((description, total))
            return reading.narration.Plain.progress(self, description, total, done=done)

    monkeypatch.setattr(reading.narration, "_narrator", Narrator())
    for name in ("lines.jsonl.gz", "votes.parquet", "file.arrow", "commas.csv"):
        (tmp_path / name).write_bytes(DRESSES[name])
        list(read_rows(existing(str(tmp_path / name), "k"), Reading()))
        assert shown.pop() == (f"MB of {name}", len(DRESSES[name]))
