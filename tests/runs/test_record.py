import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kto_lab.errors import LabError
from kto_lab.runs import record as module
from kto_lab.runs.environment import environment, peak_memory
from kto_lab.runs.record import SCHEMA, Record, read_record
from kto_lab.statistics import Estimate


@pytest.fixture
def record(tmp_path: Path) -> Record:
    folder = tmp_path / "run"
    return Record(
        folder=folder, run_id="abc", config={"loss": {"beta": 0.1}}, seeds={"seed": 3}, environment=environment()
    )


def test_a_record_reads_back_as_it_was_written(record: Record) -> None:
    record.data = {"fingerprint": "f00", "counts": {"train": {"desirable": np.int64(7)}}}
    record.training = {"steps": 40, "tokens_seen": 12345}
    record.metrics = {"rewards": {"auc": Estimate(np.float64(0.6), 0.5, 0.7, 120)}, "kl": Estimate(None, None, None, 0)}
    record.peak_memory = peak_memory()
    record.write()
    found = read_record(record.folder)
    assert found == read_record(record.folder / "record.json")
    assert (found["schema"], found["status"], found["run_id"]) == (SCHEMA, "finished", "abc")
    assert (found["config"], found["seeds"]) == ({"loss": {"beta": 0.1}}, {"seed": 3})
    assert found["data"]["counts"]["train"]["desirable"] == 7
    assert found["metrics"] == {
        "rewards": {"auc": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 120}},
        "kl": {"value": None, "low": None, "high": None, "n": 0},
    }
    assert found["peak_memory"]["process"] > 2**20
    assert found["environment"]["packages"]["torch"]


def test_the_documented_keys_are_those_of_a_record(record: Record) -> None:
    assert module.__doc__ is not None
    documented = [line.split("`")[1] for line in module.__doc__.splitlines() if line.startswith("| `")]
    assert documented == list(record.as_dict())


def test_stages_add_up_and_are_timed_when_they_fail(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 2.5, 10.0, 11.0, 20.0, 24.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    for name in ("training", "training"):
        with record.stage(name):
            pass
    with pytest.raises(RuntimeError), record.stage("saving"):
        raise RuntimeError
    assert record.timings == {"training": 3.5, "saving": 4.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan")])
def test_a_number_that_is_not_finite_is_refused_by_name(bad: Any, record: Record) -> None:
    record.metrics = {"answers": [{"ok": 1.0}, {"pass_rate": Estimate(bad, None, None, 3)}]}
    with pytest.raises(LabError, match=r"metrics\.answers\[1\]\.pass_rate\.value is (nan|inf)"):
        record.write()
    assert not (record.folder / "record.json").exists()


def test_a_value_that_is_no_json_is_refused_by_name(record: Record) -> None:
    record.model = {"weights": object()}
    with pytest.raises(LabError, match=r"model\.weights is a object"):
        record.write()


def test_paths_are_relative_to_the_run_folder_or_to_home(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    record.folder = Path("runs/a")
    record.files = {"policy": record.folder / "policy"}
    record.config = {
        "run_dir": str(work / "runs" / "a"),
        "checkpoint": str(work / "runs" / "a" / "last.ckpt"),
        "data": str(work / "thumbs.jsonl"),
        "model": str(home / "models" / "mine"),
        "shared": "/no/such/place/model",
        "hub": "org/name",
        "text": "at / or so",
    }
    found = record.as_dict()
    assert found["files"] == {"policy": "policy"}
    assert found["config"] == {
        "run_dir": ".",
        "checkpoint": "last.ckpt",
        "data": "../../thumbs.jsonl",
        "model": "~/models/mine",
        "shared": "/no/such/place/model",
        "hub": "org/name",
        "text": "at / or so",
    }


def test_a_missing_record_says_that_the_run_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no record at .*record\.json.*not finished"):
        read_record(tmp_path)


@pytest.mark.parametrize("content", [b'{"schema": 1', b"\xff\xfe", b"", b"[1]"])
def test_a_broken_record_is_a_lab_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(LabError, match=r"record\.json is damaged"):
        read_record(tmp_path)


@pytest.mark.parametrize("content", [{"schema": SCHEMA + 1}, {}])
def test_an_unknown_schema_is_a_lab_error(content: Any, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(LabError, match=rf"schema .*reads schemas 1, {SCHEMA}"):
        read_record(tmp_path)
