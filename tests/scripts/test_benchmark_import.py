"""The benchmark of imports: what it measures, on few rows; and the personal data of its invented texts."""

import json
from pathlib import Path

import benchmark_import
import pytest


def test_personal_data_is_found_and_nothing_is_taken_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark_import.main(["personal", "--out", str(tmp_path / "personal.json")])
    found = json.loads((tmp_path / "personal.json").read_text())["finders"]
    kinds = found["kto-lab, phone_region=US"]["kinds"]
    assert all(row["found"] == row["there"] >= 7 and row["wrong"] == 0 for row in kinds.values())
    abroad = found["kto-lab"]
    assert all("PHONE" in text for text in abroad["missed"]) and abroad["mistaken"] == []
    assert "recall" in capsys.readouterr().out


@pytest.mark.slow
def test_each_import_is_measured_and_runs_of_before_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    for setting in ("plain", "near duplicates"):
        benchmark_import.main(["scale", "--rows", "300", "--settings", setting, "--out", str(file)])
    near, plain = json.loads(file.read_text())["runs"]
    assert (near["setting"], plain["setting"]) == ("near duplicates", "plain")
    assert near["rows"] == plain["rows"] == 300 > plain["examples"] > near["examples"]
    assert plain["peak_mebibytes"] > plain["growth_mebibytes"] >= 0
