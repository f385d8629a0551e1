"""A table is written to the disk in batches, and is the table that it would be in memory."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.feedback import on_disk
from kto_lab.feedback.table import build_table, of_split
from kto_lab.hashing import content_hash


def rows(number: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"p{n // 2}", "completion": f"c{n}", "desirable": n % 2 == 0, **more} for n in range(number)]


@pytest.mark.parametrize("number", [1, 3, 4, 9])
def test_batches_are_one_table_without_a_file_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole = build_table(rows(number), source="s", held_out=0.5)
    monkeypatch.setattr(on_disk, "BATCH", 2)
    table = build_table(rows(number), source="s", held_out=0.5)
    assert not list(tmp_path.iterdir())
    assert table.to_list() == whole.to_list() and table.features == whole.features
    assert of_split(table, "train").to_list() == [row for row in table.to_list() if row["split"] == "train"]
    assert table.filter(lambda row: row["desirable"]).num_rows == (number + 1) // 2


def test_a_fault_in_a_late_row_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(on_disk, "BATCH", 2)
    with pytest.raises(LabError, match="the label is 'odd'"):
        build_table([*rows(5), {**rows(1)[0], "desirable": "odd"}], source="s", held_out=0.0)
    assert not list(tmp_path.iterdir())


def test_a_column_and_a_key_of_messages_are_there_where_one_row_of_any_batch_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_disk, "BATCH", 2)
    chats = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows(5)]
    plain = build_table(chats, source="s", held_out=0.0)
    assert plain[4]["prompt"] == [{"role": "user", "content": "p2"}] and "pair_id" not in plain.column_names
    chats[3]["prompt"][0]["name"] = "Ada"
    chats[4]["pair_id"] = "x"
    told = build_table(chats, source="s", held_out=0.0)
    assert told[3]["prompt"] == [{"role": "user", "content": "p1", "name": "Ada"}]
    assert told["pair_id"][:] == [None] * 4 + ["x"]
    assert told["prompt_id"][:3] == plain["prompt_id"][:3]


def test_repeated_thumbs_keep_the_identities_that_they_had() -> None:
    table = build_table([rows(1)[0]] * 3, source="s", held_out=0.0)
    assert table["example_id"][:] == ["f616e39db3309dcc", "03903143e3794f0f", "09220f19a21969fc"]
    assert table["prompt_id"][0] == "fc538b3badf81467"
    chat = [{"role": "user", "content": 'é\x7f\u2028"\\\n\x01'}]
    row = {"prompt": chat, "completion": "ü\x1f", "desirable": False, "rater": "a"}
    (found,) = build_table([row], source="s", held_out=0.5)
    names = ("example_id", "prompt_id", "split")
    assert [found[name] for name in names] == ["350ec03c3b39809c", "7f544403dfd25c9f", "test"]


def test_hashes_of_texts_are_those_of_pythons_json() -> None:
    for start in range(0, 0x110000, 0x1000):
        text = "".join(map(chr, range(start, start + 0x1000))).encode(errors="ignore").decode()
        parts = (text, None, True, text[:7], False)
        plain = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        assert content_hash(*parts) == hashlib.sha256(plain.encode()).hexdigest()[:16]
    with pytest.raises(UnicodeEncodeError):
        content_hash("\ud800")


def test_a_disk_that_is_full_or_not_there_is_an_error_for_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(LabError, match=r"The table cannot be written to .*gone.*TMPDIR"):
        build_table(rows(2), source="s", held_out=0.0)
