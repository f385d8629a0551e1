"""What the kinds of figure share: line styles, an axis of choices, and names at the ends of lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import bounds, label
from kto_lab.reports.frame import base_policy, plain
from kto_lab.reports.selection import EDGE_MARK
from kto_lab.reports.specs import FigureSpec, shown
from kto_lab.reports.tables import BASE
from kto_lab.reports.words import choice_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that people who see no red, green or blue tell apart, too, each dark enough for text on white; in grey its
# dashes and its marker say which line it is.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#1a1a1a",
    "#9000f0",
    "#603000",
    "#000090",
    "#900060",
    "#f00048",
    "#9090a8",
)
DASHES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
    (0, (8, 3)),
    (0, (1, 2.5)),
    (0, (3, 1, 1, 1)),
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (1, 1)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
# Of the policy before training.
BASE_COLOUR = "#6b6b6b"
FONT = 8
# Least distance between two labels at line ends, in points.
LINE_GAP = 10.0
# Letters of names side by side that an axis has room for.
LETTERS = 75


@dataclass(frozen=True)
class Style:
    """How a line is drawn.

    Attributes:
        colour: of line, marker and name.
        dashes: as matplotlib has them.
        marker: likewise.
    """

    colour: str
    dashes: Any
    marker: str


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


def axis_of(values: Sequence[Any], spec: FigureSpec, what: str) -> Axis:
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


def x_label(spec: FigureSpec) -> str:
    """What is written at the axis of x."""
    return spec.x_label or (label(spec.x) if spec.kind == "frontier" else choice_label(spec.x))


def finish_x(axes: "Axes", axis: Axis, spec: FigureSpec) -> None:
    """Ticks where cells are, if they are not too close to be told apart."""
    from matplotlib.ticker import NullLocator

    axes.set_xlabel(x_label(spec), fontsize=FONT + 1)
    if spec.log_x:
        axes.set_xscale("log")
    places = np.log(axis.places) if spec.log_x else np.array(axis.places)
    if axis.names is not None or len(places) < 2 or np.diff(places).min() > 0.05 * np.ptp(places):
        name_ticks(axes, axis.places, axis.names or [shown(value) for value in axis.values])
        axes.xaxis.set_minor_locator(NullLocator())


def name_ticks(axes: "Axes", places: Sequence[float], names: Sequence[str]) -> None:
    """Write names below an axis, slanted where they would touch."""
    axes.set_xticks(places, names)
    if len(names) * max(len(name) for name in names) > LETTERS:
        axes.tick_params(axis="x", labelrotation=30)
        for tick in axes.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")


def styles(frame: pd.DataFrame, key: str) -> dict[Any, Style]:
    """How each value of a choice is drawn: by its place in the study, so that it is the same in every figure.

    Beyond the colours that there are, these come again with other dashes and markers.
    """
    found = {}
    for place, value in enumerate(dict.fromkeys(map(plain, frame[key].tolist()))):
        other = (place + place // len(COLOURS)) % len(DASHES)
        found[value] = Style(COLOURS[place % len(COLOURS)], DASHES[other], MARKERS[other])
    return found


def check_lines(lines: Sequence[Any], what: str) -> None:
    """LabError where there are more lines than can be told apart."""
    if len(lines) > len(COLOURS):
        raise LabError(
            f"{what} has {len(lines)} lines; more than {len(COLOURS)} cannot be told apart. Choose another `line`, or "
            "draw a heatmap."
        )


def end_at_bounds(axes: "Axes", metric: str, which: str = "y") -> None:
    """Let an axis end where its metric does: no share is above 1."""
    ends = bounds(metric)
    if ends is None:
        return
    get, put = (axes.get_ylim, axes.set_ylim) if which == "y" else (axes.get_xlim, axes.set_xlim)
    low, high = get()
    put(max(low, ends[0]), min(high, ends[1]))
    # Half of a marker at the end would be missing.
    for drawn in [*axes.lines, *axes.collections]:
        drawn.set_clip_on(False)


def draw_base(axes: "Axes", frame: pd.DataFrame, metric: str) -> float | None:
    """Draw the policy before training as a line across, where runs measured the same one; returns its height."""
    group = base_policy(frame, metric)
    value = None if group is None else group.mean.estimate.value
    if value is not None:
        axes.axhline(value, color=BASE_COLOUR, linewidth=1, linestyle=(0, (2, 2)), zorder=1, label=BASE)
    return value


def mark_edges(axes: "Axes", places: Sequence[tuple[float, float]], colour: str) -> None:
    """Mark means (x, y) whose setting was chosen on the edge of what was tried."""
    for x, y in places:
        axes.annotate(EDGE_MARK, (x, y), (4, 4), textcoords="offset points", fontsize=FONT, color=colour)


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
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
