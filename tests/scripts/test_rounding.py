"""One update in each number format, on the tiny policy, as the command measures it."""

import json
from pathlib import Path

import benchmark
import pytest
import torch


def test_update_survives_where_masters_start_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rounding", "--model", "tiny", "--threads", str(torch.get_num_threads()), "--out", str(tmp_path)]
    benchmark.main(words)
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())
    rows = {row["format"]: row for row in found["formats"]}
    assert {row["start"] for row in rows.values()} == {0.0}, "before the first step the policy is its reference"
    off = {name: abs(row["slope"] - 1) for name, row in rows.items()}
    assert off["masters anywhere"] < off["rounded once"] / 2
    assert off["masters anywhere, logits float32 (as shipped)"] < off["rounded once"] / 2
    errors = {name: row["error"] for name, row in rows.items()}
    assert min(errors, key=errors.__getitem__) == "masters anywhere, weights alone rounded"
    assert found["product"]["different"] < found["product"]["entries"] / 1000
    printed = capsys.readouterr().out
    assert all(f"| {name} | {row['slope']:.3f} |" in printed for name, row in rows.items())
