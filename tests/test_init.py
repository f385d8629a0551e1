"""`kto-lab init FOLDER`: a project of one's own, whose printed commands run at once."""

import re
import shlex
from pathlib import Path

import pytest

from kto_lab import cli
from kto_lab.project import NEXT
from tests.documented import run_command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    run_command(["init", "mine"], monkeypatch)
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    return tmp_path / "mine"


def test_what_is_printed_runs_at_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = capsys.readouterr().out
    commands = re.findall(r"^    PYTHONPATH=\. kto-lab (.*)$", said, re.MULTILINE)
    assert len(commands) == len(NEXT) and "cd mine" in said
    readme = (project / "README.md").read_text()
    assert all(command in readme for command in commands)
    for command in commands:
        run_command(shlex.split(command), monkeypatch)
    assert (project / "runs/first/record.json").is_file()
    said = capsys.readouterr().out
    assert "6 runs" in said or "6 cells" in said, said[-800:]


def test_the_slurm_profile_is_of_the_lab_s_launcher(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "train --config-dir conf hydra/launcher=my_cluster --cfg hydra --package hydra.launcher"
    run_command(words.split(), monkeypatch)
    said = capsys.readouterr().out
    assert "SlurmLauncher" in said and "timeout_min: 240" in said and "requeue: true" in said


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("sys.argv", ["kto-lab", "init", str(tmp_path / "full")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "nothing is overwritten" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["kept.txt"]
    run_command(["init", str(tmp_path / "empty")], monkeypatch)
    assert (tmp_path / "empty" / "my_losses.py").is_file()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "full"], "nothing is left beside it"
