import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from kto_lab import console
from kto_lab.console import Comparison


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], io.StringIO]:
    def make(terminal: bool) -> io.StringIO:
        text = io.StringIO()
        fake = Console(file=text, force_terminal=terminal, width=80, color_system=None, highlight=False)
        monkeypatch.setattr(console, "console", lambda: fake)
        return text

    return make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as the only element; tests move it on."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def estimate(
    value: float, low: float | None = None, high: float | None = None, n: int = 120
) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high, "n": n}


def test_plain_progress_says_how_far_and_how_long(screen: Callable[[bool], io.StringIO], clock: list[float]) -> None:
    text = screen(False)
    with console.progress("training", 40) as advance:
        for step in range(40):
            clock[0] += 3
            advance(1, f"loss {step}")
    lines = text.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "    training 4/40, 1 min 48 s left, loss 3"
    assert lines[-1] == "    training 40/40, took 2 min 00 s, loss 39"


def test_a_quick_plain_loop_is_one_line(screen: Callable[[bool], io.StringIO], clock: list[float]) -> None:
    text = screen(False)
    with console.progress("answers", 1000) as advance:
        for _ in range(100):
            clock[0] += 0.01
            advance(10)
    assert text.getvalue() == "    answers 1000/1000, took 1 s\n"


def test_time_left_of_a_resumed_loop_counts_its_own_steps_only(
    screen: Callable[[bool], io.StringIO], clock: list[float]
) -> None:
    text = screen(False)
    with console.progress("training", 100, done=80) as advance:
        clock[0] = 10.0
        advance(10)
    assert text.getvalue() == "    training 90/100, 10 s left\n"


def test_progress_that_is_undone_and_made_again_tells_no_time(
    screen: Callable[[bool], io.StringIO], clock: list[float]
) -> None:
    text = screen(False)
    with console.progress("cells", 20, done=1) as advance:
        clock[0] = 10.0
        advance(-1)
        advance(1)
    with console.progress("cells", 1, done=1) as advance:
        advance(-1)
        clock[0] = 20.0
        advance(1)
    assert text.getvalue() == "    cells 1/1, took 10 s\n"


def test_terminal_progress_shows_count_and_note(screen: Callable[[bool], io.StringIO]) -> None:
    text = screen(True)
    with console.progress("training", 3) as advance:
        for _ in range(3):
            advance(1, "loss [0.5]")
    assert "3/3" in text.getvalue()
    assert "loss [0.5]" in text.getvalue()


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_only_the_first_process_speaks(
    rank: str, speaks: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.standard.cache_clear()
    monkeypatch.setenv("LOCAL_RANK", rank)
    try:
        console.stage("Training", "why")
    finally:
        console.standard.cache_clear()
    assert ("Training" in capsys.readouterr().out) == speaks


def test_stage_and_say_take_text_literally(screen: Callable[[bool], io.StringIO]) -> None:
    text = screen(False)
    console.stage("Training [kto]", "because [/] is no markup")
    console.say("/a/long/path/" + "x" * 100)
    assert "==> Training [kto]\nbecause [/] is no markup\n" in text.getvalue()
    assert "/a/long/path/" + "x" * 100 + "\n" in text.getvalue()


def test_comparison_table_fits_and_marks_what_leaves_out_zero(screen: Callable[[bool], io.StringIO]) -> None:
    text = screen(False)
    rows = [
        Comparison("pass rate", estimate(0.41, 0.325, 0.5), estimate(0.55, 0.46, 0.64), estimate(0.14, 0.05, 0.23)),
        Comparison("length", estimate(31, 29, 33), estimate(30, 28, 32), estimate(-1, -3.1, 1.1)),
        Comparison("AUC", None, estimate(0.661, 0.6, 0.72, n=230), None),
        Comparison("bits per byte", estimate(1.0213), estimate(1.0311), None),
    ]
    console.show(console.comparison_table(rows, title="Base against trained"))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    by_name = {line.split("  ")[0].strip(): line.split() for line in lines}
    assert by_name["pass rate"] == ["pass", "rate", "0.41", "0.55", "+0.14", "*", "120"]
    assert by_name["length"] == ["length", "31.0", "30.0", "-1.0", "120"]
    assert by_name["AUC"] == ["AUC", "-", "0.66", "-", "230"]
    assert by_name["bits per byte"] == ["bits", "per", "byte", "1.021", "1.031", "-", "120"]
    assert "[0.46, 0.64]" in text.getvalue()


def test_group_table_fits_with_long_names_whole(screen: Callable[[bool], io.StringIO]) -> None:
    text = screen(False)
    name = "detectable_format:number_highlighted_sections"
    rows = [Comparison(name, estimate(0.3), estimate(0.2), estimate(-0.1, -0.27, -0.01, n=15))]
    console.show(console.group_table(rows, title="Pass rate", group="constraint"))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "-0.10 [-0.27, -0.01] *" in text.getvalue()
    first = next(place for place, line in enumerate(lines) if "detectable" in line)
    assert lines[first].split()[0] + lines[first + 1].strip() == name


def test_small_negative_numbers_do_not_show_as_minus_zero(screen: Callable[[bool], io.StringIO]) -> None:
    text = screen(False)
    rows = [Comparison("x", None, None, estimate(-0.0001, -0.2, 0.2))]
    console.show(console.comparison_table(rows, title="t"))
    assert "+0.00" in text.getvalue()
    assert "-0.00" not in text.getvalue()


def test_files_are_shown_relative_to_here_and_unbroken(
    screen: Callable[[bool], io.StringIO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = screen(False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    console.show_files({"record": Path("runs/a/record.json"), "model": tmp_path / ("y" * 90)})
    record, model = text.getvalue().splitlines()
    assert record == "    record  runs/a/record.json"
    assert model == f"    model   {tmp_path / ('y' * 90)}"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3600 * 2 + 610, "2 h 10 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text
