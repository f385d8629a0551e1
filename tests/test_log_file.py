"""The log of a run: plain text, whatever was printed, and nothing of another run."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kto_lab import console
from kto_lab.log_file import into


@pytest.fixture(params=["", "1"], ids=["no terminal", "colours forced"])
def standard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The console of this process made anew, as in a file and as where the environment asks for a terminal's words."""
    monkeypatch.setenv("FORCE_COLOR", request.param)
    console.standard.cache_clear()
    yield
    console.standard.cache_clear()


@pytest.mark.usefixtures("standard")
def test_progress_that_was_begun_before_stays_out_of_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.txt"
    with console.progress("cells", 2) as advance, into(log):
        console.say("of the first cell")
        with console.progress("training", 1) as step:
            step()
        advance(2)
    assert log.read_text() == "of the first cell\n    training 1/1, took 0 s\n"
    assert "cells" in capsys.readouterr().out
    console.say("after it")
    assert "after it" in capsys.readouterr().out


@pytest.mark.usefixtures("standard")
def test_a_log_is_plain_text(tmp_path: Path) -> None:
    with into(tmp_path / "log.txt"):
        console.stage("Training", "why")
        print("\x1b[31mred\x1b[0m words", file=sys.stderr)
        for percent in (10, 60, 100):
            sys.stderr.write(f"\rLoading: {percent}%")
            sys.stderr.flush()
        print("\ncut\r\nopen", end="")
    text = (tmp_path / "log.txt").read_text()
    assert text == "\n==> Training\nwhy\nred words\nLoading: 100%\ncut\nopen\n"


def test_what_a_library_keeps_of_one_log_writes_to_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with into(tmp_path / "first.txt"):
        handler = logging.StreamHandler()
    with into(tmp_path / "second.txt"):
        handler.emit(logging.makeLogRecord({"msg": "of the second"}))
    handler.emit(logging.makeLogRecord({"msg": "of none"}))
    assert (tmp_path / "first.txt").read_text() == ""
    assert (tmp_path / "second.txt").read_text() == "of the second\n"
    assert capsys.readouterr().err == "of none\n"
