"""A table of large files is kept in the cache folder, and read from there in the same way."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback import file as reader
from kto_lab.feedback import survey, table_cache
from tests.damage import DAMAGES
from tests.feedback.reading import jsonl, read

ROWS = [{"prompt": f"p{n // 2}", "completion": f"c{n}", "label": n % 3 > 0, "mood": "x"} for n in range(6)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, for files of every size."""
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table_cache, "LEAST", 0)
    return tmp_path / "cache" / "tables"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of the tables that were made."""
    sources = []
    whole = survey.table_of

    def counting(*words: Any, source: str, **more: Any) -> Dataset:
        sources.append(source)
        return whole(*words, source=source, **more)

    monkeypatch.setattr(reader, "table_of", counting)
    return sources


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_the_same_table_comes_from_the_cache_with_the_same_remarks(
    tmp_path: Path,
    folder: Path,
    parsed: list[str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = jsonl(tmp_path, *ROWS, {"prompt": "", "completion": "c", "label": True})
    remarks, warnings = [], []
    for _ in range(3):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            table = read(source, bad_rows="drop")
        remarks.append(said(capsys))
        warnings.append(caplog.messages)
        assert table.column_names == read(source, bad_rows="drop").column_names
        assert [row["completion"] for row in table] == [f"c{n}" for n in range(6)]
        assert table.features == read(source, bad_rows="drop").features
        said(capsys)
    assert len(parsed) == 1 and remarks[0] == remarks[1] == remarks[2] and "'mood'" in remarks[0]
    assert warnings[0] == warnings[1] and "dropped 1 of 7 rows" in warnings[0][0]
    assert [table.source for table in table_cache.kept_tables()] == ["t.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == [table_cache.kept_tables()[0].path.name]


def test_a_table_from_the_cache_is_that_of_the_file(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    rows = [{**row, "prompt": chat, "when": "2026-05-01"} for row in ROWS]
    source, columns = jsonl(tmp_path, *rows), {"timestamp": "when", "group": "mood"}
    made, again = read(source, columns), read(source, columns)
    assert made.to_list() == again.to_list() and again[0]["place"] == f"{source}:1"
    assert made.data.schema == again.data.schema and again.filter(lambda row: row["desirable"]).num_rows == 4
    assert not again.cache_files


@pytest.mark.parametrize(
    "changes",
    [
        {"held_out": 0.9},
        {"as_chat": True},
        {"labels": {"true": False, "false": True}},
        {"columns": {"group": "mood"}},
        {"max_rows": 10},
    ],
    ids=str,
)
def test_another_setting_or_content_is_another_table(
    tmp_path: Path, parsed: list[str], changes: dict[str, Any]
) -> None:
    source = jsonl(tmp_path, *ROWS)
    read(source)
    read(source, changes.pop("columns", None), **changes)
    assert len(parsed) == 2
    jsonl(tmp_path, *ROWS[:5])
    assert len(read(source)) == 5


def test_other_code_reads_again(tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = jsonl(tmp_path, *ROWS)
    read(source)
    monkeypatch.setattr(table_cache, "_reader", lambda: "later")
    read(source)
    monkeypatch.setattr(table_cache, "LEAST", source.stat().st_size + 1)
    read(source)
    assert len(parsed) == 3 and len(table_cache.kept_tables()) == 2


@pytest.mark.parametrize("damage", [*DAMAGES, "empty"])
def test_a_damaged_table_is_set_aside_and_made_again(
    tmp_path: Path, folder: Path, damage: str, parsed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = jsonl(tmp_path, *ROWS)
    whole = read(source).to_list()
    (path,) = folder.iterdir()
    DAMAGES.get(damage, lambda file: file.write_bytes(b""))(path)
    said(capsys)
    assert read(source).to_list() == whole
    assert f"{path.name} is damaged" in said(capsys) and len(parsed) == 2
    assert sorted(found.name for found in folder.iterdir()) == [path.name, f"{path.name}.damaged"]
    assert {table.path.name: table.source for table in table_cache.kept_tables()}[path.name] == "t.jsonl"


def test_tables_that_were_used_longest_ago_make_room(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = jsonl(tmp_path, *ROWS)
    for number, share in enumerate((0.1, 0.2, 0.3)):
        read(source, held_out=share)
        newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        os.utime(newest, (1e9 + number, 1e9 + number))
    first, second, _ = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    read(source, held_out=0.1)
    assert first.stat().st_mtime > 1e9 + 10
    monkeypatch.setattr(table_cache, "MOST", sum(path.stat().st_size for path in folder.iterdir()))
    read(source, held_out=0.4)
    assert first.exists() and not second.exists() and len(list(folder.iterdir())) == 3


@pytest.fixture
def refusing(folder: Path) -> Iterator[None]:
    """A cache folder that nothing can be written into."""
    folder.parent.mkdir()
    folder.write_text("a file is in the way")
    yield


@pytest.mark.usefixtures("refusing")
def test_a_table_that_cannot_be_kept_is_read_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(read(jsonl(tmp_path, *ROWS))) == 6
    assert "The table is not kept for the next run. Could not write" in said(capsys)


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = jsonl(tmp_path, *ROWS)
    whole = survey.table_of

    def changing(*words: Any, **more: Any) -> Dataset:
        found = whole(*words, **more)
        with source.open("a") as file:
            file.write(json.dumps(ROWS[0]) + "\n")
        return found

    monkeypatch.setattr(reader, "table_of", changing)
    assert len(read(source)) == 6 and not folder.exists()
    with pytest.raises(LabError, match="is empty"):
        source.write_text("")
        read(source)
