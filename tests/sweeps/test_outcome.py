"""What a sweep says of cells that are not done: each reason once."""

import re
from pathlib import Path

import pytest

from kto_lab.errors import LabError
from kto_lab.files import write_json
from kto_lab.hashing import content_hash
from kto_lab.runs.identity import Identity
from kto_lab.runs.record import RECORD
from kto_lab.runs.status import FAILURE
from kto_lab.sweeps.composing import Planned
from kto_lab.sweeps.estimates import Work
from kto_lab.sweeps.outcome import TOLD, finish, reason_of
from kto_lab.sweeps.study import Cell


def planned(folder: Path, number: int) -> Planned:
    run_id = content_hash(number)
    (folder / run_id).mkdir()
    cell = Cell({"arm": "kto", "seed": number}, (f"seed={number}",))
    return Planned(cell, run_id, folder / run_id, Work((), 4, 1.0, None), Identity("", "", "", {}))


def test_each_reason_is_said_once_with_a_count_and_a_cell(tmp_path: Path) -> None:
    cells = [planned(tmp_path, number) for number in range(6)]
    for cell in cells[:3]:
        write_json(cell.folder / FAILURE, {"error": f"Could not write {cell.folder}/x.ckpt: No space.\nFree some."})
    write_json(cells[3].folder / FAILURE, {"error": "corruption.rate is 2"})
    problems = {cells[4].folder: "Could not write its lease"}
    with pytest.raises(LabError) as error:
        finish(cells, tmp_path, problems)
    lines = str(error.value).splitlines()
    assert lines[:4] == [
        "6 of 6 cells are not done.",
        "  3 failed: Could not write its folder/x.ckpt: No space.",
        "      Free some.",
        f"      such as arm=kto seed=0: {cells[0].folder}",
    ]
    assert lines[4:6] == ["  1 failed: corruption.rate is 2", f"      arm=kto seed=3: {cells[3].folder}"]
    assert lines[6] == "  1 missing: Could not write its lease" and lines[8].startswith("  1 missing: it was not begun")


def test_a_thousand_reasons_are_not_all_said(tmp_path: Path) -> None:
    cells = [planned(tmp_path, number) for number in range(TOLD + 5)]
    for cell in cells:
        write_json(cell.folder / FAILURE, {"error": f"reason {cell.cell.choices['seed']}"})
    with pytest.raises(LabError, match="5 for 5 other reasons"):
        finish(cells, tmp_path, {})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b'{"other": 1}'])
def test_a_damaged_failure_is_said_to_be(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FAILURE).write_bytes(content)
    assert re.search(r"failure\.json (is damaged|cannot be read): ", reason_of(tmp_path, {}))


def test_a_damaged_record_says_how(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes(b"\xff")
    assert "record.json is damaged" in reason_of(tmp_path, {})
    (tmp_path / RECORD).unlink()
    (tmp_path / RECORD).mkdir()
    assert "Is a directory" in reason_of(tmp_path, {})
