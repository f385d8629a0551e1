"""A study's figures, as PNG and PDF: readable in grey and in print, labelled where the lines end.

Bands are the intervals of `comparisons.mean_over_seeds`. Cells that are not there are counted below the figure.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kto_lab.errors import LabError
from kto_lab.files import atomic_path
from kto_lab.studies.comparisons import OVER_PROMPTS
from kto_lab.studies.frame import Group, check_metric, choices, grouped, measured, plain
from kto_lab.studies.specs import FigureSpec, label, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "pdf")
WIDTH, HEIGHT = 6.4, 4.0
# Colours differ in lightness, and each has its own line and marker: neither alone has to carry the meaning.
STYLES: tuple[tuple[str, Any, str], ...] = (
    ("#1b5e8c", "-", "o"),
    ("#c2571a", "--", "s"),
    ("#2f8f5b", "-.", "^"),
    ("#6a3d8f", ":", "D"),
    ("#1a1a1a", (0, (6, 1.5, 1, 1.5, 1, 1.5)), "v"),
    ("#b3893a", (0, (8, 3)), "P"),
    ("#a6234b", (0, (1, 2.5)), "X"),
    ("#7c8a94", (0, (3, 1, 1, 1)), "*"),
)
FONT = 8
# Least distance between two labels at line ends, in points.
LINE_GAP = 10.0


@dataclass(frozen=True)
class Axis:
    """Where the values of a choice stand on an axis.

    Attributes:
        values: in order.
        places: of each, in data units.
        names: tick labels, or None where the values are numbers and the axis has ticks of its own.
    """

    values: Sequence[Any]
    places: Sequence[float]
    names: Sequence[str] | None

    def place(self, value: Any) -> float:
        """Where a value stands."""
        return self.places[self.values.index(value)]


def plot(frame: pd.DataFrame, spec: FigureSpec, target: Path) -> list[Path]:
    """Draw a figure.

    Args:
        frame: from `kto_lab.studies.load`.
        spec: what to show.
        target: where to, without a suffix; one file is written for each of `FORMATS`.

    Returns:
        The files.

    Raises:
        LabError: the specification does not fit the study, or a file cannot be written.
    """
    # Imported here because it takes a second, and a mistake in a table should show before.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    what = f"figure {spec.name}"
    check_metric(frame, spec.y, what)
    if not (frame["status"] == "done").any():
        raise LabError(f"{what}: no run of the study is done, so there is nothing to draw. Run the sweep first.")
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.tick_params(labelsize=FONT)
    axes.spines[["top", "right"]].set_visible(False)
    note = DRAWINGS[spec.kind](axes, frame, spec, what)
    lacking = frame.loc[frame["status"] != "done", "status"].value_counts()
    if len(lacking):
        states = ", ".join(f"{count} {state}" for state, count in lacking.items())
        note = f"{note}. Not shown, of {len(frame)} runs: {states}"
    figure.supxlabel(textwrap.fill(note, 120), fontsize=FONT - 1, x=0.01, ha="left", color="0.35")
    files = [target.with_name(f"{target.name}.{kind}") for kind in FORMATS]
    for file in files:
        # Fonts that can be searched; no date, so that the same records give the same file.
        with mpl.rc_context({"pdf.fonttype": 42}), atomic_path(file) as partial:
            figure.savefig(partial, dpi=200, metadata={"CreationDate": None} if file.suffix == ".pdf" else None)
    return files


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved apart until neighbours are at least `gap` from one another, and no further than that takes.

    Labels that touch become one block around the mean of where they would be.
    """
    order = np.argsort(heights, kind="stable")
    blocks: list[list[int]] = []

    def start(block: Sequence[int]) -> float:
        return float(np.mean([heights[member] for member in block])) - gap * (len(block) - 1) / 2

    for member in order:
        blocks.append([int(member)])
        while len(blocks) > 1 and start(blocks[-1]) < start(blocks[-2]) + gap * len(blocks[-2]):
            blocks[-2].extend(blocks.pop())
    moved = [0.0] * len(heights)
    for block in blocks:
        for place, member in enumerate(block):
            moved[member] = start(block) + gap * place
    return moved


def _draw_lines(axes: "Axes", frame: pd.DataFrame, spec: FigureSpec, what: str) -> str:
    """Metric y against choice x; returns what the bands are."""
    groups = _groups(frame, spec, what)
    axis = _axis([x for _, x in groups], spec, what)
    incomplete = {(line, axis.place(x)): bool(group.others) for (line, x), group in groups.items()}
    ends: list[tuple[float, float, str, str]] = []
    intervals: set[str | None] = set()
    lines = list(dict.fromkeys(line for line, _ in groups))
    for line, (colour, dashes, marker) in zip(lines, _styles(len(lines), what), strict=True):
        found = {axis.place(x): group.mean for (name, x), group in groups.items() if name == line}
        points = [(x, found[x]) for x in sorted(found) if found[x].estimate.value is not None]
        if not points:
            continue
        xs, ys = [x for x, _ in points], [float(mean.estimate.value or 0) for _, mean in points]
        axes.plot(xs, ys, color=colour, linestyle=dashes, marker=marker, markersize=4.5, linewidth=1.6)
        for x, y in zip(xs, ys, strict=True):
            if incomplete[line, x]:
                axes.plot(x, y, color=colour, marker=marker, markersize=4.5, markerfacecolor="white")
        found_ends = [(x, mean.estimate.low, mean.estimate.high) for x, mean in points]
        bands = [(x, low, high) for x, low, high in found_ends if low is not None and high is not None]
        intervals |= {mean.interval for _, mean in points}
        _draw_band(axes, bands, colour, dashes)
        ends.append((xs[-1], ys[-1], shown(line), colour))
    _finish_x(axes, axis, spec)
    axes.set_ylabel(label(spec.y), fontsize=FONT + 1)
    axes.grid(axis="y", color="0.92")
    _label_ends(axes, ends)
    hollow = "; hollow: some of its seeds are lacking" if any(incomplete.values()) else ""
    return _about(groups, intervals - {None}) + hollow


def _draw_band(axes: "Axes", bands: Sequence[tuple[float, float, float]], colour: str, dashes: Any) -> None:
    """The intervals (x, low, high) of a line; one alone is a bar."""
    if len(bands) == 1:
        axes.vlines(*bands[0], color=colour, linewidth=1.2)
    elif bands:
        across, low, high = zip(*bands, strict=True)
        axes.fill_between(across, low, high, color=colour, alpha=0.12, linewidth=0)
        for edge in (low, high):
            axes.plot(across, edge, color=colour, linestyle=dashes, linewidth=0.5, alpha=0.6)


def _draw_heatmap(axes: "Axes", frame: pd.DataFrame, spec: FigureSpec, what: str) -> str:
    """Metric y in numbers, choice x across and choice `line` down."""
    groups = _groups(frame, spec, what)
    columns = _axis([x for _, x in groups], spec, what).values
    rows = list(dict.fromkeys(line for line, _ in groups))
    if all(isinstance(row, int | float) for row in rows):
        rows = sorted(rows, reverse=True)
    values = np.full((len(rows), len(columns)), np.nan)
    for (line, x), group in groups.items():
        value = group.mean.estimate.value
        values[rows.index(line), columns.index(x)] = np.nan if value is None else value
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = (high - low) or 1.0
    # Light greys end before black and white, so that numbers stand out on both ends.
    axes.imshow(values, cmap="Greys", vmin=low - 0.1 * pad, vmax=high + 0.35 * pad, aspect="auto")
    digits = 2 if high < 10 else 1 if high < 100 else 0
    for row, line in enumerate(rows):
        for column, x in enumerate(columns):
            dark = values[row, column] > low + 0.55 * pad
            text = _in_cell(groups.get((line, x)), digits)
            axes.text(column, row, text, ha="center", va="center", fontsize=FONT, color="white" if dark else "black")
    axes.set_xticks(range(len(columns)), [shown(x) for x in columns])
    axes.set_yticks(range(len(rows)), [shown(line) for line in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(spec.x, fontsize=FONT + 1)
    axes.set_ylabel(spec.line, fontsize=FONT + 1)
    axes.set_title(label(spec.y), loc="left", fontsize=FONT + 1)
    return _about(groups, set())


def _draw_frontier(axes: "Axes", frame: pd.DataFrame, spec: FigureSpec, what: str) -> str:
    """Metric y against metric x, a point a run."""
    check_metric(frame, spec.x, what)
    if spec.line not in choices(frame):
        raise LabError(f"{what}: {spec.line!r} is no choice of this study. Choices are {', '.join(choices(frame))}.")
    names = list(dict.fromkeys(plain(value) for value in frame[spec.line]))
    named = []
    for name, (colour, _, marker) in zip(names, _styles(len(names), what), strict=True):
        mine = frame[[plain(value) == name for value in frame[spec.line]]]
        found = mine[[spec.x, spec.y]].dropna().astype(float)
        if found.empty:
            continue
        axes.scatter(found[spec.x], found[spec.y], s=26, color=colour, marker=marker, alpha=0.8, linewidth=0)
        furthest = found.loc[found[spec.x].idxmax()]
        named.append((float(furthest[spec.x]), float(furthest[spec.y]), shown(name), colour))
    if spec.log_x:
        if (frame[spec.x].dropna() <= 0).any():
            raise LabError(f"{what}: {label(spec.x)} is zero or less in some run, which has no place on a log axis.")
        axes.set_xscale("log")
    axes.set_xlabel(label(spec.x), fontsize=FONT + 1)
    axes.set_ylabel(label(spec.y), fontsize=FONT + 1)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    _label_ends(axes, named)
    return "A point is a run"


def _draw_seeds(axes: "Axes", frame: pd.DataFrame, spec: FigureSpec, what: str) -> str:
    """Metric y of every run, side by side for each value of choice x; a bar is the mean."""
    groups = _groups(frame, spec, what)
    values = _axis([x for _, x in groups], spec, what).values
    lines = list(dict.fromkeys(line for line, _ in groups))
    step = 0.8 / len(lines)
    for place, (line, (colour, _, marker)) in enumerate(zip(lines, _styles(len(lines), what), strict=True)):
        for column, x in enumerate(values):
            if (line, x) not in groups or not groups[line, x].outcomes:
                continue
            middle = column + (place - (len(lines) - 1) / 2) * step
            ys = [outcome.value for outcome in groups[line, x].outcomes.values()]
            axes.hlines(float(np.mean(ys)), middle - 0.4 * step, middle + 0.4 * step, color=colour, linewidth=1.6)
            axes.scatter([middle] * len(ys), ys, s=22, color=colour, marker=marker, alpha=0.75, linewidth=0)
        axes.scatter([], [], s=22, color=colour, marker=marker, linewidth=0, label=shown(line))
    axes.set_xticks(range(len(values)), [shown(x) for x in values])
    axes.set_xlabel(spec.x, fontsize=FONT + 1)
    axes.set_ylabel(label(spec.y), fontsize=FONT + 1)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=FONT, ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 1.0), handletextpad=0.2)
    return "A point is a run, a bar the mean over its seeds"


DRAWINGS = {"line": _draw_lines, "heatmap": _draw_heatmap, "frontier": _draw_frontier, "seeds": _draw_seeds}


def _groups(frame: pd.DataFrame, spec: FigureSpec, what: str) -> dict[tuple[Any, Any], Group]:
    """The cells of each value of `line` and x."""
    keys = list(dict.fromkeys([spec.line, spec.x]))
    found = grouped(frame, keys, what)
    return {(key[0], key[-1]): measured(part, spec.y, None, what) for key, part in found.items()}


def _axis(values: Sequence[Any], spec: FigureSpec, what: str) -> Axis:
    """Numbers stand where they are, other values side by side in the order of the sweep."""
    distinct = list(dict.fromkeys(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct):
        ordered = sorted(distinct)
        if spec.log_x and ordered[0] <= 0:
            raise LabError(f"{what}: {spec.x} is {shown(ordered[0])} in a cell, which has no place on a log axis.")
        return Axis(ordered, [float(value) for value in ordered], None)
    if spec.log_x:
        raise LabError(f"{what}: the values of {spec.x} are no numbers, so log_x does not apply.")
    return Axis(distinct, [float(place) for place in range(len(distinct))], [shown(value) for value in distinct])


def _finish_x(axes: "Axes", axis: Axis, spec: FigureSpec) -> None:
    """Ticks where cells are, if they are not too close to be told apart."""
    from matplotlib.ticker import NullLocator

    axes.set_xlabel(spec.x, fontsize=FONT + 1)
    if spec.log_x:
        axes.set_xscale("log")
    places = np.log(axis.places) if spec.log_x else np.array(axis.places)
    if axis.names is not None or len(places) < 2 or np.diff(places).min() > 0.05 * np.ptp(places):
        axes.set_xticks(axis.places, axis.names or [shown(value) for value in axis.values])
        axes.xaxis.set_minor_locator(NullLocator())


def _styles(count: int, what: str) -> Sequence[tuple[str, Any, str]]:
    if count > len(STYLES):
        raise LabError(
            f"{what} has {count} lines; more than {len(STYLES)} cannot be told apart. Choose another `line`, or draw a "
            "heatmap."
        )
    return STYLES[:count]


def _label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names right of the ends (x, y, name, colour) of lines, moved apart where they would touch."""
    figure = axes.get_figure()
    assert figure is not None
    figure.canvas.draw()
    points = 72 / figure.dpi
    heights = [float(axes.transData.transform((x, y))[1]) * points for x, y, *_ in ends]
    for (x, y, name, colour), height, moved in zip(ends, heights, spread(heights, LINE_GAP), strict=True):
        shift = moved - height
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            name,
            (x, y),
            (9, shift),
            textcoords="offset points",
            va="center",
            fontsize=FONT,
            color=colour,
            arrowprops=leader if abs(shift) > 2 else None,
        )


def _in_cell(group: Group | None, digits: int) -> str:
    """What stands in a cell of a heat map."""
    if group is None:
        return ""
    if group.mean.estimate.value is None:
        return "\n".join(group.others)
    lacking = f"\n{len(group.outcomes)} of {group.planned}" if group.others else ""
    return f"{group.mean.estimate.value:.{digits}f}{lacking}"


def _about(groups: Mapping[Any, Group], intervals: set[str | None]) -> str:
    """What a mean is over, and its band."""
    counts = sorted({len(group.outcomes) for group in groups.values() if group.outcomes})
    over = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    mean = "One seed" if counts == [1] else f"Mean of {over} seeds"
    where = "the prompts of a run" if intervals == {OVER_PROMPTS} else "seeds"
    if len(intervals) > 1:
        where = "seeds, or the prompts of a run where it is the only one"
    return f"{mean}; band: 95 % interval over {where}" if intervals else mean
