"""The guide's four commands from a product's export to trained policies and their report."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTION = "## From an export to a trained policy"


def commands() -> list[list[str]]:
    text = (ROOT / "docs" / "feedback.md").read_text(encoding="utf-8").partition(SECTION)[2].partition("\n#")[0]
    return [shlex.split(line) for line in re.findall(r"^    (kto-lab .+)$", text, re.MULTILINE)]


@pytest.mark.slow
def test_the_worked_example_does_what_the_guide_says(tmp_path: Path) -> None:
    # Paths in the guide are of a checkout; what the commands write goes elsewhere.
    (tmp_path / "kto_lab").symlink_to(ROOT / "kto_lab")
    steps = commands()
    assert [words[1:3] for words in steps[:2]] == [["feedback", "import"], ["feedback", "audit"]]
    assert [words[1] for words in steps[2:]] == ["sweep", "report"]
    for words in steps:
        done = subprocess.run(
            [sys.executable, "-m", "kto_lab.cli", *words[1:]], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    sums = tmp_path / "runs" / "sums"
    imported = json.loads((sums / "thumbs.import_report.json").read_text())
    assert (imported["rows"], imported["examples"]) == (490, 407)
    assert pq.read_table(sums / "thumbs.parquet").num_rows == 407
    assert (sums / "audit" / "review.html").is_file()
    study = tmp_path / "runs" / "studies" / "own_thumbs"
    cells = json.loads((study / "study.json").read_text())["cells"]
    assert len(cells) == 9 and all((study / cell["folder"] / "policy").is_dir() for cell in cells)
    # By chance it would be a half: what was learned from the thumbs tells held-out ones apart.
    _, _, *rows = (study / "tables" / "held_out.md").read_text().splitlines()[:5]
    aucs = {row.split("|")[1].strip(" *"): float(row.split("|")[2].strip(" *").split()[0]) for row in rows}
    assert set(aucs) == {"kto", "bco", "sft"} and min(aucs.values()) > 0.7
    assert "<svg" in (study / "report.html").read_text()
