"""What the kinds of figure share: line styles, an axis of choices, and names at the ends of lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kto_lab.errors import LabError
from kto_lab.reports.specs import FigureSpec, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    ("#0f8a8a", (0, (5, 1, 1, 1, 1, 1)), "<"),
    ("#d08bb5", (0, (1, 1)), ">"),
)
FONT = 8
# Least distance between two labels at line ends, in points.
LINE_GAP = 10.0
# Letters of names side by side that an axis has room for.
LETTERS = 75


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


def finish_x(axes: "Axes", axis: Axis, spec: FigureSpec) -> None:
    """Ticks where cells are, if they are not too close to be told apart."""
    from matplotlib.ticker import NullLocator

    axes.set_xlabel(spec.x_label or spec.x, fontsize=FONT + 1)
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


def styles(count: int, what: str) -> Sequence[tuple[str, Any, str]]:
    """Colour, dashes and marker of so many lines; LabError where they could not be told apart."""
    if count > len(STYLES):
        raise LabError(
            f"{what} has {count} lines; more than {len(STYLES)} cannot be told apart. Choose another `line`, or draw a "
            "heatmap."
        )
    return STYLES[:count]


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
