"""A table of examples as one picture: classes, flips and completion lengths, readable in grey."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kto_lab.feedback.inspect_numbers import Classes, Flips
from kto_lab.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Style:
    """How a class is drawn: by colour, and by fill and line for those who see no colour."""

    colour: str
    fill: str
    line: str


# The colours of the training curves.
STYLES = {"desirable": Style("#1b5e8c", "#1b5e8c", "-"), "undesirable": Style("#c2571a", "#f3d9c9", "--")}
# Where the axis of lengths ends: the few longest completions would squeeze all others together.
LONGEST_SHOWN = 99


def plot_inspection(
    target: Path,
    classes: Mapping[str, Classes],
    flips: Flips,
    lengths: Mapping[str, Mapping[str, NDArray[np.int64]]],
) -> None:
    """Draw the counts of each class, the flips, and the lengths of completions.

    Args:
        target: the PNG to write.
        classes: the counts of each part ("train before", ...), drawn in this order.
        flips: of the training split.
        lengths: part to class to characters of every completion; the one or two parts to draw.
    """
    # Imported here because it takes a second, and a mistake in the configuration should show at once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.1, 1]).flat
    left, right = upper.subplots(1, 2, width_ratios=[1.5, 1])
    _draw_classes(left, classes)
    _draw_flips(right, flips)
    pooled = np.concatenate([values for part in lengths.values() for values in part.values()])
    end = float(np.percentile(pooled, LONGEST_SHOWN))
    panels = lower.subplots(1, len(lengths), sharey=True, squeeze=False)
    for axes, (name, part) in zip(panels.flat, lengths.items(), strict=True):
        _draw_lengths(axes, name, part, end)
    panels.flat[0].set_ylabel("share of completions that are no longer", fontsize=8)
    panels.flat[0].legend(frameon=False, fontsize=8, loc="lower right")
    with atomic_path(target) as partial:
        figure.savefig(partial, dpi=130)


def _draw_classes(axes: "Axes", classes: Mapping[str, Classes]) -> None:
    """Two bars per part, each with its count and its share."""
    axes.set_title("examples of each class", loc="left", fontsize=9)
    middles = np.arange(len(classes), dtype=float)
    for (name, style), offset in zip(STYLES.items(), (-0.2, 0.2), strict=True):
        counts = [part.desirable if name == "desirable" else part.undesirable for part in classes.values()]
        bars = axes.barh(middles + offset, counts, 0.36, color=style.fill, edgecolor=style.colour)
        totals = [part.examples for part in classes.values()]
        labels = [f"{count:,}  {count / total:.0%}" for count, total in zip(counts, totals, strict=True)]
        labels[0] = f"{name} {labels[0]}"
        axes.bar_label(bars, labels, padding=4, fontsize=8, color=style.colour)
    axes.set_yticks(middles, list(classes))
    axes.invert_yaxis()
    axes.tick_params(labelsize=8, length=0)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    # Room for the labels at the ends of the bars.
    axes.set_xlim(0, 1.5 * max(max(part.desirable, part.undesirable) for part in classes.values()))


def _draw_flips(axes: "Axes", flips: Flips) -> None:
    """The flip matrix; a cell is the darker, the larger its share of the row."""
    axes.set_title("clean label against label, training split", loc="left", fontsize=9)
    counts = np.array([[flips.kept_up, flips.flipped_down], [flips.flipped_up, flips.kept_down]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1.1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        text = f"{counts[row, column]:,}\n{share:.1%} of the row"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.5 else "black")
    axes.set_xticks([0, 1], ["desirable", "undesirable"])
    axes.set_yticks([0, 1], ["desirable", "undesirable"])
    axes.set_xlabel("label that the loss sees", fontsize=8)
    axes.set_ylabel("clean label", fontsize=8)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_visible(False)


def _draw_lengths(axes: "Axes", name: str, lengths: Mapping[str, NDArray[np.int64]], end: float) -> None:
    """The distribution function of each class: steps, so that short answers show as they are."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(f"completion lengths, {name}", loc="left", fontsize=9)
    for kind, values in lengths.items():
        if not values.size:
            continue
        style = STYLES[kind]
        places = np.concatenate([[0], np.sort(values)])
        shares = np.arange(len(places)) / len(values)
        axes.step(places, shares, where="post", color=style.colour, linestyle=style.line, label=kind)
    axes.set_xlim(0, 1.02 * end)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel(f"characters, to the {LONGEST_SHOWN}th percentile", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
