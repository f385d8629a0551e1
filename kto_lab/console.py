"""What a person sees while a run goes on: stages, progress with time left, tables. All of it fits 80 columns.

Everything goes to standard output, through one rich console. Where that is no terminal (a file, a Slurm log), progress
is a plain line now and then instead of a bar. In a run of several processes only the first one speaks.
"""

import functools
import math
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from kto_lab.narration import Advance
from kto_lab.processes import is_first

SECONDS_BETWEEN_LINES = 5.0
INTERVAL = "[...] 95 % interval"
# Of the longest description in a run, so that bars stand under each other.
DESCRIPTION_WIDTH = 16
# From here on numbers are shown as powers of ten (the word perplexity of a policy that babbles).
LARGE = 1e6


class Screen(Console):
    """A console that leaves to the command what is done where nobody reads any more; rich's ends the program with 1."""

    def on_broken_pipe(self) -> None:
        """Raise the error that rich is at."""
        raise

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Stay with the standard output of now, whatever takes its place in a block."""
        before, self._file = self._file, self.file
        try:
            yield
        finally:
            self._file = before


# Where everything goes instead, inside `redirected`.
_redirected: list[Console] = []


def console() -> Console:
    """The one console of this process."""
    return _redirected[-1] if _redirected else standard()


@functools.cache
def standard() -> Screen:
    """The console on the standard output."""
    return Screen(highlight=False, quiet=not is_first())


@contextmanager
def redirected(log: Console) -> Iterator[None]:
    """Have everything that is said in a block printed by another console.

    A progress display that was begun before stays where it is.
    """
    with standard().pinned():
        _redirected.append(log)
        try:
            yield
        finally:
            _redirected.pop()


def stage(title: str, why: str) -> None:
    """Say what is being done, and why."""
    console().print(f"\n[bold cyan]==>[/] [bold]{escape(title)}[/]")
    console().print(Text(why, style="dim"))


def say(text: str, screen: Console | None = None) -> None:
    """One plain line, never wrapped, so that a path in it can be copied; on a screen of its own if given."""
    (screen or console()).print(Text(text), soft_wrap=True)


@contextmanager
def progress(description: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show how far a loop is and how long it will still take.

    Args:
        description: a word or two.
        total: how many there are to do.
        done: how many were done before (of a resumed run).

    Yields:
        A function to call with the number of newly finished items, and a note such as the current loss.
    """
    if not console().is_terminal:
        yield _plain_progress(description, total, done)
        return
    bar = Progress(
        TextColumn(f"    {{task.description:<{DESCRIPTION_WIDTH}}}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        _TimeLeft(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console(),
    )
    with bar:
        task = bar.add_task(escape(description), total=total, completed=done, note="")

        def advance(n: int = 1, note: str = "") -> None:
            bar.update(task, advance=n, note=escape(note))

        yield advance


class _TimeLeft(ProgressColumn):
    """The time left in words, then the time it took."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"took {_roughly(task.finished_time or 0)}")
        return Text("" if task.time_remaining is None else f"{_roughly(task.time_remaining)} left", style="cyan")


def _plain_progress(description: str, total: int, done: int) -> Advance:
    """A line at each tenth of the way, but no more than one in five seconds; and always the last one."""
    screen = console()
    start = last_line = time.monotonic()
    now_done, last_tenth = done, 10 * done // max(total, 1)

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal now_done, last_line, last_tenth
        before, now_done = now_done, now_done + n
        now = time.monotonic()
        tenth = 10 * now_done // max(total, 1)
        finished = before < total <= now_done
        if finished or (tenth > last_tenth and now - last_line >= SECONDS_BETWEEN_LINES):
            last_line, last_tenth = now, tenth
            taken, gained = now - start, now_done - done
            # What was done before may be undone (a damaged record): then nothing tells how fast this goes.
            left = f"{duration(taken / gained * (total - now_done))} left" if gained > 0 else ""
            clock = f"took {duration(taken)}" if finished else left
            words = ", ".join(part for part in (f"{description} {now_done}/{total}", clock, note) if part)
            say(f"    {words}", screen)

    return advance


def _roughly(seconds: float) -> str:
    """Without seconds from a minute on: beside a bar there is little room."""
    return f"{round(seconds / 60)} min" if 60 <= round(seconds) < 3600 else duration(seconds)


def duration(seconds: float) -> str:
    """Seconds as a person says them: "8 s", "3 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


Interval = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A row of a table: base policy against trained policy.

    Each estimate is a mapping with `value`, `low`, `high` (95 % interval) and `n`, as in a record; None where there is
    none, and `low` and `high` None where there is no interval.

    Attributes:
        name: of the metric or the group.
        base: the base policy's estimate.
        trained: the trained policy's.
        difference: trained minus base, paired.
        decimals: shown; None for as many as the intervals allow.
    """

    name: str
    base: Interval | None
    trained: Interval | None
    difference: Interval | None
    decimals: int | None = None

    @property
    def digits(self) -> int:
        """Decimals of its numbers."""
        found = _decimals(self.base, self.trained, self.difference)
        return found if self.decimals is None else self.decimals


def comparison_table(rows: Sequence[Comparison], *, title: str) -> Table:
    """Base policy against trained policy, with 95 % intervals, the difference if there is one, and the n behind it."""
    paired = any(row.difference for row in rows)
    table = plain_table(title, INTERVAL + ("    * the interval of the difference leaves out 0" if paired else ""))
    table.add_column("metric", ratio=1, overflow="fold")
    for heading in ("base", "trained", "difference")[: 3 if paired else 2]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for row in rows:
        digits = row.digits
        cells = [_two_lines(row.base, digits), _two_lines(row.trained, digits)]
        if paired:
            cells.append(_two_lines(row.difference, digits, signed=True))
        table.add_row(row.name, *cells, _count(row))
    return table


def estimate_table(estimates: Mapping[str, Interval], *, title: str) -> Table:
    """Metrics of one policy that is compared with none, with 95 % intervals."""
    table = plain_table(title, INTERVAL)
    table.add_column("metric", ratio=1, overflow="fold")
    for heading in ("value", "interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, estimate in estimates.items():
        digits = _decimals(estimate)
        table.add_row(name, _value(estimate, digits), Text(_interval(estimate, digits), "dim"), str(estimate["n"]))
    return table


def group_table(rows: Sequence[Comparison], *, title: str, group: str) -> Table:
    """One line per group (a constraint, a text source, ...), with the interval of the difference only.

    Args:
        rows: one per group.
        title: of the table.
        group: what a group is, as the first column's heading.
    """
    table = plain_table(title, "* the interval leaves out 0 (not corrected for the number of groups)")
    table.add_column(group, ratio=1, overflow="fold")
    for heading in ("base", "trained", "difference [95 %]", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        digits = row.digits
        difference = Text.assemble(
            _value(row.difference, digits, signed=True),
            " ",
            (_interval(row.difference, digits, signed=True), "dim"),
            _mark(row.difference) or "  ",
        )
        table.add_row(row.name, _value(row.base, digits), _value(row.trained, digits), difference, _count(row))
    return table


def show_texts(texts: Mapping[str, str]) -> None:
    """Texts beside their names, each cut to two lines: for a look at what a policy says."""
    width = max(map(len, texts), default=0)
    for name, text in texts.items():
        printable = "".join(c if c.isprintable() else " " for c in text.strip().replace("\n", " \N{RETURN SYMBOL} "))
        lines = textwrap.wrap(printable, 80 - 6 - width, max_lines=2, placeholder=" ...") or [""]
        for place, line in enumerate(lines):
            console().print(Text.assemble("    ", (f"{name if place == 0 else '':<{width}}  ", "dim"), line))


def show_files(files: Mapping[str, Path]) -> None:
    """Say what was written and where; paths within the current folder are relative to it."""
    width = max(map(len, files), default=0)
    for what, path in files.items():
        absolute = Path(path).absolute()
        near = absolute.is_relative_to(Path.cwd())
        say(f"    {what:<{width}}  {absolute.relative_to(Path.cwd()) if near else absolute}")


def show(item: Table) -> None:
    """Print a table."""
    console().print()
    console().print(item)


def plain_table(title: str, caption: str = "") -> Table:
    """An empty table in the looks of all of them."""
    return Table(
        title=title,
        caption=Text(caption) if caption else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        expand=True,
        width=80,
        pad_edge=False,
    )


def _decimals(*estimates: Interval | None) -> int:
    """Decimals at which the narrowest interval of a row still shows a digit that means something."""
    widths = [
        (estimate["high"] - estimate["low"]) / 2
        for estimate in estimates
        if estimate and estimate["low"] is not None and estimate["high"] > estimate["low"]
    ]
    return min(max(-math.floor(math.log10(min(widths) / 3)), 0), 4) if widths else 3


def _two_lines(estimate: Interval | None, digits: int, *, signed: bool = False) -> Text:
    text = Text(_value(estimate, digits, signed=signed))
    if signed:
        # Blanks keep the digits of marked and unmarked rows under each other.
        text.append(_mark(estimate) or "  ")
    interval = _interval(estimate, digits, signed=signed)
    return text.append("\n" + interval + ("  " if signed else ""), style="dim") if interval else text


def _value(estimate: Interval | None, digits: int, *, signed: bool = False) -> str:
    if not estimate or estimate["value"] is None:
        return "-"
    return _number(estimate["value"], digits, signed=signed)


def _interval(estimate: Interval | None, digits: int, *, signed: bool = False) -> str:
    if not estimate or estimate["low"] is None:
        return ""
    low, high = (_number(estimate[end], digits, signed=signed) for end in ("low", "high"))
    return f"[{low}, {high}]"


def in_one_line(estimate: Interval | None, digits: int, *, signed: bool = False) -> str:
    """An estimate as text with its interval behind it, such as "0.72 [0.68, 0.77]"; "-" where there is none."""
    return " ".join(filter(None, [_value(estimate, digits, signed=signed), _interval(estimate, digits, signed=signed)]))


def _number(value: float, digits: int, *, signed: bool) -> str:
    if abs(value) >= LARGE:
        return f"{value:.2e}"
    # Adding 0.0 turns the "-0.00" of a small negative number into "0.00".
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def _mark(difference: Interval | None) -> str:
    if not difference or difference["low"] is None:
        return ""
    return " *" if difference["low"] > 0 or difference["high"] < 0 else ""


def _count(row: Comparison) -> str:
    counts = [estimate["n"] for estimate in (row.difference, row.trained, row.base) if estimate]
    return str(counts[0]) if counts else "-"
