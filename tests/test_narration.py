"""What a computation says: printed as it is, or shown by the narrator that a command plugs in."""

from collections.abc import Iterator

import pytest

from kto_lab import cli, console, narration
from kto_lab.narration import Plain, narrate_with


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    """The narrator of a process in which no command has begun."""
    before = narration._narrator
    narrate_with(Plain())
    yield
    narrate_with(before)


def speak() -> None:
    narration.stage("Training", "why [not]")
    narration.say("    a [remark]")
    with narration.progress("steps", 2, done=1) as advance:
        advance(1, note="loss 0.5")


def test_without_a_command_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    speak()
    assert capsys.readouterr().out == "\n==> Training\nwhy [not]\n    a [remark]\n"


def test_the_console_shows_it_and_how_far_a_loop_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.standard.cache_clear()
    narrate_with(console)
    speak()
    said = capsys.readouterr().out
    assert said.startswith("\n==> Training\nwhy [not]\n    a [remark]\n    steps 2/2, took ")
    assert said.endswith("loss 0.5\n")


def test_a_command_plugs_the_console_in(monkeypatch: pytest.MonkeyPatch) -> None:
    narrators = []
    monkeypatch.setattr(cli, "_load", lambda _: lambda _: narrators.append(narration._narrator))
    monkeypatch.setattr("sys.argv", ["kto-lab", "cache"])
    cli.main()
    assert narrators == [console]
