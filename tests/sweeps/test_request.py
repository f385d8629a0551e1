"""What the command line of a sweep asks for."""

from pathlib import Path

import pytest

from kto_lab.errors import LabError
from kto_lab.sweeps.request import Request, read


def test_words_are_the_sweeps_own_its_cells_or_flags(tmp_path: Path) -> None:
    line = [
        "study=a",
        "loss.beta=1,2",
        "--why",
        "-cd",
        str(tmp_path),
        "hydra/launcher=slurm",
        "--accept-code",
        "my_losses",
    ]
    assert read([*line, "~lengths.x", "--accept-code=kto_lab.training"]) == Request(
        own=("study=a", "hydra/launcher=slurm"),
        given=("loss.beta=1,2", "~lengths.x"),
        config_dir=tmp_path,
        why=True,
        accept_code=("my_losses", "kto_lab.training"),
    )


def test_failed_cells_are_due_when_asked_for() -> None:
    assert read([]).due == ("missing", "running")
    assert "failed" in read(["--retry-failed"]).due


@pytest.mark.parametrize("words", [["--no-such"], ["--accept-code"], ["--config-dir", "no/such/folder"]])
def test_what_is_not_known_is_said(words: list[str]) -> None:
    with pytest.raises(LabError, match=words[0]):
        read(words)
