import json
import os
import socket
import subprocess
from pathlib import Path

import numpy
import psutil
import pytest
import torch

from kto_lab.memory import forget_peak_of_devices
from kto_lab.runs import command
from kto_lab.runs.environment import PACKAGES, environment, git_state, peak_memory
from tests.small_runs import configuration


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_versions_and_hardware() -> None:
    found = environment()
    assert found["packages"].keys() == {"kto-lab", *PACKAGES}
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["numpy"] == numpy.__version__
    assert None not in found["packages"].values()
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["threads"] == torch.get_num_threads()
    assert found["cpu"]["memory_bytes"] > 2**28
    assert len(found["gpus"]) == torch.cuda.device_count()


def test_nothing_of_the_person_or_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_TOKEN", "very-secret-token-of-this-site")
    text = json.dumps(environment())
    assert "very-secret" not in text
    assert str(Path.home()) not in text
    # A short host name can be part of an innocent word.
    names = {socket.gethostname(), os.environ.get("USER", "")}
    assert not any(name in text for name in names if len(name) > 5)


def test_git_state_of_a_checkout(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) == {"commit": None, "dirty": False}
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    clean = git_state(tmp_path)
    assert clean == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == clean | {"dirty": True}


def test_a_folder_inside_another_checkout_is_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "site-packages").mkdir()
    assert git_state(tmp_path / "site-packages") is None


def test_without_git_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_the_peak_of_devices_is_that_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [30 * 2**30, 20 * 2**30]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: held[device])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: held.__setitem__(device, 2**20))
    forget_peak_of_devices()
    assert peak_memory()["cuda"] == 50 * 2**30, "torch has nothing to reset before it has begun"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    found: list[int | None] = []
    # A run of an earlier cell has left its peak.
    monkeypatch.setattr(command.run, "train", lambda *_: found.append(peak_memory()["cuda"]))
    command.train_in_own_folder(configuration(tmp_path))
    assert found == [2 * 2**20]


def test_peak_memory_is_in_bytes() -> None:
    now = psutil.Process().memory_info().rss
    peak = peak_memory()
    assert peak["process"] is not None
    # The kernel's two counts may differ by a few pages; a wrong unit would be off by a factor of 1024.
    assert 0.9 * now < peak["process"] < psutil.virtual_memory().total
    assert (peak["cuda"] is None) == (not torch.cuda.is_available())
