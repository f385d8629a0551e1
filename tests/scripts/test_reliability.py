"""The page of reliability is what its harnesses have counted."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
import reliability
from reliability import PARTS, TARGET, Row, counted, page

from kto_lab.files import write_json

REPORT = """<testsuites><testsuite>
<testcase name="test_a_run[full]"><properties>
  <property name="what" value="killed"/><property name="tried" value="3"/><property name="held" value="3"/>
  <property name="tried" value="7"/>
</properties><failure message="no"/></testcase>
<testcase name="test_a_run[lora]"><properties>
  <property name="what" value="killed"/><property name="tried" value="2"/><property name="held" value="2"/>
</properties></testcase>
<testcase name="test_a_wrong_word[a]"/>
<testcase name="test_a_wrong_word[b]"><failure message="no"/></testcase>
<testcase name="test_a_gpu"><skipped/></testcase>
</testsuite></testsuites>"""


def test_tests_that_tell_are_summed_by_what_they_tell_and_others_by_their_name() -> None:
    rows = counted(ElementTree.fromstring(REPORT))
    assert rows == [Row("killed", 9, 5), Row("a wrong word", 2, 1)]


def test_the_page_is_what_is_kept() -> None:
    assert TARGET.read_text(encoding="utf-8") == page()


def test_a_part_that_was_not_run_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reliability, "KEPT", tmp_path)
    about = {"version": "1", "date": "2026-01-01", "on": "Linux"}
    write_json(tmp_path / "damage.json", about | {"rows": [{"what": "a | b", "tried": 3, "held": 2}]})
    assert "| a \\| b | 3 | 2 |\n\nMeasured on 2026-01-01 with kto-lab 1 (Linux)." in page()
    assert page().count("Not measured yet") == len(PARTS) - 1


def test_every_part_has_its_harness() -> None:
    harnesses = {file.stem for file in (TARGET.parent.parent / "tests" / "reliability").glob("test_*.py")}
    assert harnesses <= {f"test_{part}" for part in PARTS}
