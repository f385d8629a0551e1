"""`kto-lab check`: every check passes here, and each fails where what it looks at is wrong."""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kto_lab import cli
from kto_lab.checking import check, devices, folders, programs
from kto_lab.checking.row import Row
from kto_lab.checking.settings import Room
from kto_lab.training.devices import Answer
from tests.checking.verdicts import limits

SECRET = "0123456789abcdef0123456789abcdef01234567"


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["kto-lab", "check", *words])
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_this_machine_passes_and_the_file_says_what_the_table_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    # The others are run by the command itself in .ci/run.
    monkeypatch.setattr(check, "COMPUTED", {"numbers": check.COMPUTED["numbers"]})
    words = [f"runs_dir={tmp_path}/runs", f"output={tmp_path}/check.json", "room.cache=0", "room.runs=0"]
    assert command(monkeypatch, *words) == 0
    said, text = capsys.readouterr().out, (tmp_path / "check.json").read_text()
    assert SECRET not in said + text and "project theirs, with a key" in text
    rows = json.loads(text)["checks"]
    assert all(row["name"] in said for row in rows)
    verdicts = {row["name"]: row["verdict"] for row in rows}
    assert len(verdicts) == len(rows) and set(verdicts.values()) == {"ok", "note"}
    assert [name for name, verdict in verdicts.items() if verdict == "note"] == [
        "GPUs",
        "git",
        "Hugging Face hub",
        "Weights & Biases",
        "Slurm",
    ]
    assert not (tmp_path / "runs").exists(), "looking makes no folder"


def test_a_failed_check_is_said_with_its_mend_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "one": lambda: Row("one", "1"),
        "two": lambda: Row("two", "3 apples", "4", "failed", "Buy one."),
        "three": lambda: [][1],
    }
    monkeypatch.setattr(check, "checks", lambda *_: made)
    assert command(monkeypatch, f"output={tmp_path}/check.json") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 checks failed. two: 3 apples. Buy one. three: IndexError: list index out of range." in said
    assert [row["verdict"] for row in json.loads((tmp_path / "check.json").read_text())["checks"]] == [
        "ok",
        "failed",
        "failed",
    ]


@pytest.mark.parametrize(
    ("name", "found", "row"),
    [
        ("torch", "2.12.1", programs.torch),
        ("lightning", "3.0", programs.lightning),
        ("transformers", "5.0.0", programs.transformers),
        ("peft", None, programs.others),
    ],
)
def test_a_package_of_another_version_fails(
    name: str, found: str | None, row: Callable[[], Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert row().verdict == "ok"
    real = programs._version
    monkeypatch.setattr(programs, "_version", lambda asked: found if asked == name else real(asked))
    failed = row()
    assert failed.verdict == "failed" and (found or "not installed") in failed.measured
    assert "constraints.txt" in failed.mend


def test_an_old_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.10.1")
    assert programs.python().verdict == "failed"


def test_a_gpu_that_torch_cannot_use_fails_with_torch_s_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert devices.devices(tmp_path).verdict == "ok", "no device, only the driver's control file"
    (tmp_path / "dev" / "nvidia0").touch()

    def refuse() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old.\nPlease update")

    monkeypatch.setattr(torch.cuda, "init", refuse)
    row = devices.devices(tmp_path)
    assert row.verdict == "failed" and row.limit == "a GPU"
    assert "nvidia0" in row.mend and "The NVIDIA driver on your system is too old. " in row.mend
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    row = devices.devices(tmp_path)
    assert row.verdict == "ok" and "CUDA_VISIBLE_DEVICES hides the GPUs" in row.measured


def test_a_gpu_that_torch_does_not_see_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="NVIDIA A100", major=8, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(devices, "ask", lambda: Answer(build="CUDA 13.0", gpus=2))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    row = devices.gpus()
    assert row.verdict == "ok" and row.limit == "2 that this process may use"
    assert "NVIDIA A100, compute capability 8.0, 80 GiB" in row.measured and "CUDA 13.0" in row.measured
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert devices.gpus().verdict == "failed"


def test_a_folder_without_room_or_that_cannot_be_written_fails(tmp_path: Path) -> None:
    assert folders.room("runs", tmp_path / "a" / "b", 0, key="runs_dir").verdict == "ok"
    small = folders.room("runs", tmp_path, 1e9, key="runs_dir")
    assert small.verdict == "failed" and "runs_dir" in small.mend
    (tmp_path / "file").touch()
    row = folders.room("runs", tmp_path / "file" / "runs", 0, key="runs_dir")
    assert row.verdict == "failed" and "Not a directory" in row.measured
    assert folders.locks(tmp_path / "file" / "runs").verdict == "failed"


def not_permitted(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize(
    ("target", "instead", "said"),
    [
        ("os.link", not_permitted, "hard links (Operation not permitted)"),
        ("os.link", lambda one, two: Path(two).write_text("a copy"), "hard links"),
        ("fcntl.flock", lambda file, how: None, "locks"),
    ],
)
def test_a_file_system_that_two_processes_could_share_a_run_on_fails(
    target: str, instead: Callable[..., Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folders.locks(tmp_path).verdict == "ok"
    monkeypatch.setattr(target, instead)
    row = folders.locks(tmp_path)
    assert row.verdict == "failed" and f"fails: {said}" in row.measured and "runs_dir" in row.mend


def test_a_torch_that_cannot_be_imported_fails_its_own_checks_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "kto_lab.checking.policies", raising=False)
    made = check.checks(tmp_path, Room(cache=0, runs=0), limits(), "quick")
    failed = [row.name for about, one in made.items() for row in check._rows(about, one) if row.verdict == "failed"]
    assert failed == ["torch", "devices", "GPUs", *check.COMPUTED]
