"""TensorBoard's and Trackio's options: what is kept of a run, and what is said where Trackio is missing."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from kto_lab.errors import LabError
from kto_lab.runs.record import read_record
from kto_lab.training import local_loggers
from tests.small_runs import metrics, run

SMALL = ["evaluation=quick", "evaluation.prompts=2", "evaluation.max_new_tokens=2", "optimization.max_steps=2"]


def events(folder: Path) -> list[Event]:
    """The events of a folder's files, each with its checksum verified."""
    found = []
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            body = content[12 : 12 + length]
            assert int.from_bytes(content[12 + length : 16 + length], "little") == masked_crc32c(body)
            found.append(Event.FromString(body))
            content = content[16 + length :]
    return found


def test_tensorboard_has_every_step_and_the_final_metrics(tmp_path: Path) -> None:
    folder = run(tmp_path, *SMALL, "logger=tensorboard")
    values = {
        (value.tag, event.step): value.simple_value
        for event in events(folder / "tensorboard")
        for value in event.summary.value
    }
    losses = [float(row["loss"]) for row in metrics(folder)]
    assert [values["train/loss", step] for step in (1, 2)] == pytest.approx(losses, abs=1e-6)
    accuracy = read_record(folder)["metrics"]["rewards"]["reward_accuracy"]
    final = {tag: value for (tag, _), value in values.items() if tag.startswith("final/reward_accuracy")}
    assert final == pytest.approx(
        {
            "final/reward_accuracy" + end: accuracy[key]
            for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
    )


class Stub(ModuleType):
    """Trackio's functions, which note what they are called with."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def init(self, **wanted: Any) -> None:
        self.calls.append(("init", wanted))

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append(("log", {"metrics": metrics, "step": step}))

    def finish(self) -> None:
        self.calls.append(("finish", {}))


def test_trackio_gets_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub()
    monkeypatch.setitem(sys.modules, "trackio", stub)
    monkeypatch.setattr(local_loggers, "find_spec", lambda name: name)
    folder = run(tmp_path, *SMALL, "logger=trackio", "logger.group=mine")
    (_, begun), *logged, ended = stub.calls
    assert (begun["project"], begun["group"], begun["name"]) == ("kto-lab", "mine", folder.name)
    assert begun["config"]["run_id"] == read_record(folder)["run_id"]
    assert [what for what, _ in logged] == ["log"] * len(logged) and ended == ("finish", {})
    steps = [call for _, call in logged if "train/loss" in call["metrics"]]
    assert [call["step"] for call in steps] == [1, 2]
    assert "final/reward_accuracy" in logged[-1][1]["metrics"]


def test_trackio_that_is_not_installed_is_found_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_loggers, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"not installed: pip install 'kto-lab\[trackio\]'"):
        run(tmp_path, *SMALL, "logger=trackio")
    assert not (tmp_path / "run" / "config.yaml").exists()
