"""Whose a run folder is: one run's at a time, and for good once it has finished there."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from kto_lab import cli, files
from kto_lab.errors import LabError
from kto_lab.runs import command
from kto_lab.runs.identity import identify, plain_values
from kto_lab.runs.lease import LEASE, Owner, read_owner
from kto_lab.runs.record import RECORD, Record
from kto_lab.training.fit import CHECKPOINTS
from tests.small_runs import composed, configuration, run, thumbs, write_jsonl


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run, as far as its folder tells."""
    cfg = configuration(tmp_path)
    identity = identify(cfg)
    record = Record(tmp_path / "run", identity.run_id, plain_values(cfg), {}, {}, asdict(identity))
    record.write()
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Path]]:
    """Seed and run folder of the runs that the command line has started."""
    runs: list[tuple[int, Path]] = []
    monkeypatch.setattr(command, "train", lambda cfg: runs.append((cfg.seed, Path(cfg.run_dir))))
    return runs


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that a run has begun in; nothing is trained."""
    folders: list[Path] = []

    def begin(cfg: object, *rest: object) -> Path:
        folders.append(Path(cfg.run_dir))  # type: ignore[attr-defined]
        return folders[-1]

    monkeypatch.setattr(command.run, "train", begin)
    return folders


def test_runs_that_begin_in_one_second_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("hydra.core.utils.datetime", Clock)
    one, other = composed([]), composed([])
    assert one.run_dir != other.run_dir
    assert one.run_dir == one.run_dir == plain_values(one)["run_dir"]
    assert one.run_dir.startswith("runs/2026-01-02_03-04-05_")


@pytest.mark.parametrize("named", [True, False])
def test_each_job_of_a_multirun_has_a_folder(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[tuple[int, Path]]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-m", "seed=3,4", "trainer=cpu", *(["run_dir=X"] if named else [])]
    cli.run("train", words)
    (seed, one), (other_seed, other) = started
    assert (seed, other_seed) == (3, 4) and one != other and one.parent == other.parent
    assert [one.name, other.name] == ["0", "1"]
    assert one.parent == tmp_path / "X" if named else one.parent.parent == tmp_path / "runs"


def test_a_multirun_keeps_to_what_the_user_says_of_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[tuple[int, Path]]
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.run("train", ["-m", "seed=3,4", "hydra.sweep.dir=Y", "hydra.sweep.subdir=${hydra.job.override_dirname}"])
    assert [path for _, path in started] == [tmp_path / "Y" / "seed=3", tmp_path / "Y" / "seed=4"]


def test_a_second_run_in_a_folder_is_told_who_is_there(tmp_path: Path, trained: list[Path]) -> None:
    def second(cfg: object, *rest: object) -> Path:
        with pytest.raises(LabError, match=rf"in use: process {os.getpid()} on .*Wait for its end, or choose another"):
            run(tmp_path)
        return begin(cfg, *rest)

    begin, command.run.train = command.run.train, second
    run(tmp_path)
    assert trained == [tmp_path / "run"]
    assert read_owner(tmp_path / "run" / LEASE) is None


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_the_other_processes_of_a_run_are_no_second_owners(
    variable: str, tmp_path: Path, trained: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LEASE).write_text(json.dumps(asdict(replace(Owner.me(), identity="first"))))
    scratch = left_by_the_dead(tmp_path / "run" / "policy")
    monkeypatch.setenv(variable, "1")
    run(tmp_path)
    assert trained == [tmp_path / "run"]
    owner = read_owner(tmp_path / "run" / LEASE)
    assert owner is not None and owner.identity == "first" and scratch.exists()


@pytest.mark.parametrize("word", ["run_dir=", "run_dir=' '", "run_dir=null", "runs_dir="])
def test_a_folder_without_a_name_is_refused(word: str, trained: list[Path]) -> None:
    key = word.partition("=")[0]
    with pytest.raises(LabError, match=f"^{key} is .*, which names no folder"):
        command.train(composed([word]))
    assert not trained


def test_a_finished_folder_is_this_run_or_another(
    finished: Path, trained: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(finished, "trainer.deterministic=true", "reference_store.max_mb=5") == finished / "run" and not trained
    assert "holds this run, finished; nothing to do" in capsys.readouterr().out
    message = (
        r"holds another finished run.*optimization\.learning_rate 0\.0003 instead of 0\.001, .*seed 1 instead of 0"
    )
    with pytest.raises(LabError, match=message + r".*Choose another run_dir"):
        run(finished, "seed=1", "optimization.learning_rate=3e-4")


def test_other_data_under_the_same_name_are_another_run(finished: Path, trained: list[Path]) -> None:
    write_jsonl(finished / "thumbs.jsonl", thumbs(8))
    with pytest.raises(LabError, match=r"data: other content of feedback\.path \(thumbs\.jsonl\)\. Choose"):
        run(finished)
    assert not trained


@pytest.mark.parametrize(
    "content", [b"", b'{"schema": 2, "run_id"', b"\xff\x00", b"[]"], ids=["empty", "cut", "bytes", "list"]
)
def test_a_damaged_record_is_set_aside_and_the_run_goes_on(
    content: bytes, finished: Path, trained: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    record = finished / "run" / RECORD
    record.write_bytes(content)
    run(finished)
    assert trained == [finished / "run"] and not record.exists()
    assert record.with_name("record.json.damaged").read_bytes() == content
    assert "record.json is damaged" in capsys.readouterr().out


def test_a_record_of_a_later_version_is_no_damaged_one(finished: Path, trained: list[Path]) -> None:
    record = finished / "run" / RECORD
    record.write_text('{"schema": 99}')
    with pytest.raises(LabError, match="schema 99"):
        run(finished)
    assert record.read_text() == '{"schema": 99}' and not trained


def left_by_the_dead(target: Path) -> Path:
    """Scratch of a process that was killed while it wrote the target."""
    code = (
        "import os, signal, sys; from pathlib import Path; from kto_lab.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    before = set(target.parent.glob(".*"))
    assert subprocess.run([sys.executable, "-c", code, str(target)]).returncode == -signal.SIGKILL
    (scratch,) = set(target.parent.glob(".*")) - before
    return scratch


@pytest.mark.parametrize("done", [True, False])
def test_what_a_killed_run_left_goes_at_its_next_start(done: bool, finished: Path, trained: list[Path]) -> None:
    folder = finished / "run"
    if not done:
        (folder / RECORD).unlink()
    (folder / CHECKPOINTS).mkdir()
    killed = left_by_the_dead(folder / CHECKPOINTS / "step=3.ckpt")
    elsewhere = folder / f".policy.{'0' * 12}-1-1.abcdefgh"
    elsewhere.mkdir()
    with files.scratch_beside(folder / RECORD) as alive:
        run(finished)
        assert alive.exists()
    assert not killed.exists() and not elsewhere.exists()
    assert (folder / CHECKPOINTS).exists() != done
    assert len(trained) == (not done)
