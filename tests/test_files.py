import errno
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from kto_lab import files
from kto_lab.errors import LabError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pip_that_delivers(content: bytes | None, monkeypatch: pytest.MonkeyPatch, stderr: str = "") -> list[list[str]]:
    """Replace pip by one that puts `content` into the destination folder, or fails; returns the commands it gets."""
    commands: list[list[str]] = []

    def run(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if content is not None:
            (Path(command[command.index("--dest") + 1]) / "thing-1.0.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, 0 if content is not None else 1, "", stderr)

    monkeypatch.setattr(files.subprocess, "run", run)
    return commands


def test_write_json_round_trips_and_creates_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.json"
    files.write_json(target, {"é": [1, 2.5, None]})
    assert json.loads(target.read_text(encoding="utf-8")) == {"é": [1, 2.5, None]}
    assert [path.name for path in target.parent.iterdir()] == ["b.json"]


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    files.write_json(target, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(target, {"new": float("nan")})
    assert json.loads(target.read_text()) == {"old": 1}


def test_full_disk_is_a_lab_error_and_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "record.json"
    files.write_text(target, "old")

    def full(self: Path, text: str, **kwargs: Any) -> int:
        with self.open("w") as file:
            file.write(text[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LabError, match=r"record\.json: No space left on device.*Free some space"):
        files.write_text(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_full_disk_noticed_only_at_the_flush_is_a_lab_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(LabError, match="No space left"):
        files.write_text(tmp_path / "new.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_leaves_no_part(tmp_path: Path) -> None:
    target = tmp_path / "policy"
    with pytest.raises(RuntimeError), files.atomic_path(target) as partial:
        partial.mkdir()
        (partial / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "policy"
    for name in ("first", "second"):
        with files.atomic_path(target) as partial:
            partial.mkdir()
            (partial / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_folder_that_cannot_be_made_is_a_lab_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LabError, match="choose another folder"):
        files.write_text(tmp_path / "file" / "record.json", "text")


def left_by_the_dead(target: Path, machine: str = "") -> Path:
    """Scratch that a process has left which was killed while it wrote; on another machine where one is named."""
    with files.scratch_beside(target) as scratch:
        _, owner, last = scratch.name.rsplit(".", 2)
    here, pid, _ = owner.split("-")
    left = scratch.with_name(f".{target.name}.{machine or here}-{pid}-1.{last}")
    left.mkdir()
    (left / "half").write_text("half")
    return left


def aged(path: Path, hours: float) -> Path:
    for one in (*path.iterdir(), path):
        os.utime(one, (time.time() - 3600 * hours,) * 2)
    return path


def test_what_a_killed_writer_left_goes_when_the_target_is_written_again(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    dead, rested = left_by_the_dead(target), aged(left_by_the_dead(target, "0" * 12), 25)
    elsewhere, other = left_by_the_dead(target, "1" * 12), left_by_the_dead(tmp_path / "other.json")
    strange = tmp_path / ".record.json.mine"
    strange.mkdir()
    with files.scratch_beside(target) as alive:
        files.write_text(target, "whole")
        assert alive.exists()
    assert not dead.exists() and not rested.exists()
    assert elsewhere.exists() and other.exists() and strange.exists()


def test_abandoned_scratch_is_found_below_a_folder_and_not_in_other_scratch(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    dead = left_by_the_dead(tmp_path / "models" / "smollm2")
    (dead / "smollm2").mkdir()
    left_by_the_dead(dead / "smollm2" / "weights")
    elsewhere = aged(left_by_the_dead(tmp_path / "policy", "1" * 12), 23)
    (tmp_path / ".link.000000000000-1-1.abcdefgh").symlink_to(tmp_path / "models")
    with files.scratch_beside(tmp_path / "alive"):
        assert files.abandoned(tmp_path) == [dead]
        assert files.abandoned(tmp_path, alone=True) == [elsewhere, dead]
        files.remove_abandoned(tmp_path, alone=True)
        assert files.abandoned(tmp_path, alone=True) == []
    assert (tmp_path / "models").is_dir()


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert files.sha256_file(tmp_path / "abc") == expected


def test_a_fetched_file_is_verified_kept_and_not_fetched_twice(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample").write_bytes(b"wheel")
    checksum = files.sha256_file(tmp_path / "sample")
    commands = pip_that_delivers(b"wheel", monkeypatch)
    for _ in range(2):
        path = files.fetch_from_registry("thing==1.0", "thing-1.0.whl", checksum)
        assert path.read_bytes() == b"wheel"
        assert path.is_relative_to(cache)
    assert len(commands) == 1
    assert {"--no-deps", "--only-binary", "thing==1.0"} <= set(commands[0])


def test_a_source_distribution_is_asked_for_as_such(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = pip_that_delivers(b"other", monkeypatch)
    with pytest.raises(LabError):
        files.fetch_from_registry("thing==1.0", "thing-1.0.whl", "0" * 64, source=True)
    assert "--no-binary" in commands[0]


def test_a_file_with_another_checksum_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that_delivers(b"tampered", monkeypatch)
    with pytest.raises(LabError, match="not the pinned file"):
        files.fetch_from_registry("thing==1.0", "thing-1.0.whl", "0" * 64)
    assert not list((cache / "downloads").iterdir())


def test_a_damaged_file_in_the_cache_is_fetched_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample").write_bytes(b"wheel")
    damaged = cache / "downloads" / "thing-1.0.whl"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"whe")
    pip_that_delivers(b"wheel", monkeypatch)
    path = files.fetch_from_registry("thing==1.0", "thing-1.0.whl", files.sha256_file(tmp_path / "sample"))
    assert path.read_bytes() == b"wheel"


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [("WARNING: x\nERROR: no route to the registry", "no route to the registry"), ("", "no reason")],
)
def test_no_registry_says_why_and_what_to_do(
    stderr: str, reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_that_delivers(None, monkeypatch, stderr)
    with pytest.raises(LabError, match=rf"thing==1\.0.*{reason}.*put thing-1\.0\.whl into"):
        files.fetch_from_registry("thing==1.0", "thing-1.0.whl", "0" * 64)
