"""The tables that the benchmark prints."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.jobs import FLOOR, OURS


def show_steps(result: dict[str, Any]) -> None:
    """Print what `steps.measure` found."""
    settings, contestants = result["settings"], result["contestants"]
    table = Table(title=title(settings))
    for column in ("", "s a step", "tokens/s", "over the floor", "over kto-lab", "peak GiB", "padding", "1st step, s"):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in contestants.items():
        table.add_row(
            name,
            ranged(found["seconds"]),
            f"{found['tokens_per_second']:.0f}",
            ranged(found["over"].get(FLOOR, {})),
            ranged(found["over"].get(OURS, {})),
            f"{found['peak_memory'] / 2**30:.2f}",
            f"{found['padding']:.0%}",
            f"{found['start_seconds'] + found['first_step_seconds']:.1f}",
        )
    screen = Console(width=120)
    screen.print(table)
    if FLOOR in contestants:
        screen.print(f"The floor: {contestants[FLOOR]['way']}. Ratios: median of rounds, and their range.")


def show_sweep(result: dict[str, Any]) -> None:
    """Print what `sweeps.measure` found."""
    table = Table(title=f"{result['cells']} cells of {result['steps']} steps, {result['model']}")
    for column in ("", "seconds", "peak GiB", "over kto-lab"):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in result["ways"].items():
        table.add_row(name, f"{found['seconds']:.1f}", f"{found['peak_memory'] / 2**30:.2f}", over_ours(result, name))
    Console(width=120).print(table)


def over_ours(result: dict[str, Any], name: str) -> str:
    """A way's time over that of kto-lab's sweep, and over each time that it was made."""
    ways = result["ways"]
    ratios = sorted(ways[name]["seconds"] / one for one in ways[OURS]["each"])
    ranged = f" [{ratios[0]:.2f}, {ratios[-1]:.2f}]" if name != OURS else ""
    return f"{ways[name]['seconds'] / ways[OURS]['seconds']:.2f}{ranged}"


def show_growth(result: dict[str, Any]) -> None:
    """Print what `growth.main` found."""
    for name, rows in result["growth"].items():
        show_rows(name, rows)


def show_rows(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows that have the same columns."""
    table = Table(title=name)
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*map(number, row.values()))
    Console(width=120).print(table)


def title(settings: dict[str, Any]) -> str:
    """What was measured, in a line."""
    what = {"none": "full fine-tuning", "lora": "LoRA"}[settings["adapter"]]
    prompts = {"distinct": "one completion per prompt", "shared": "four completions per prompt"}[settings["dataset"]]
    if settings["loss"] == "dpo":
        prompts = "pairs"
    return (
        f"{settings['loss'].upper()}, {what}, {settings['precision']}, {settings['model']}, {prompts}, "
        f"{settings['batch']} sequences per step, threads: {settings['threads']}"
    )


def ranged(found: dict[str, Any]) -> str:
    """Median and range, as text."""
    return f"{three(found['median'])} [{three(found['low'])}, {three(found['high'])}]" if found else ""


def three(value: float) -> str:
    """A number to three digits, those before the point whole."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def number(value: float | str) -> str:
    """A number as text: counts whole, measurements to four digits; words as they are."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
