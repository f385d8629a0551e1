"""Training curves as one picture: small multiples over the optimiser steps, readable in grey."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from kto_lab.errors import LabError
from kto_lab.evaluation.measuring import Metric
from kto_lab.evaluation.metrics import metric_of
from kto_lab.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = "curves.png"
COLUMNS = 2
# From this many steps on, a running mean is drawn over the single steps.
SMOOTH_FROM = 40
STYLES = (("#1b5e8c", "-"), ("#c2571a", "--"))


@dataclass(frozen=True)
class Panel:
    """One small plot.

    Attributes:
        lines: column of `metrics.csv` to the label at the line's end ("" for none).
        of: what is shown, where that is more than the first column; "" for the column's own label.
        zero: draw a line at 0.
        band: column of a standard error to shade around the first line.
        exact: a setting, without noise: no running mean, and powers of ten on the axis.
    """

    lines: dict[str, str]
    of: str = ""
    zero: bool = False
    band: str | None = None
    exact: bool = False

    @property
    def metric(self) -> Metric:
        """That of the first line."""
        return metric_of(next(iter(self.lines)))

    @property
    def title(self) -> str:
        """What is shown, with its unit, and what the band is."""
        notes = [
            *([self.metric.unit] if self.metric.unit else []),
            *(["band: ± 1 standard error"] if self.band else []),
        ]
        return (self.of or self.metric.title) + (f" ({', '.join(notes)})" if notes else "")


PANELS = (
    Panel({"loss": ""}),
    Panel(
        {"reward_desirable": "desirable", "reward_undesirable": "undesirable"},
        of="implicit reward of each class",
        zero=True,
    ),
    Panel({"reward_margin": ""}, zero=True),
    Panel({"z0_raw": ""}, zero=True, band="z0_stderr"),
    Panel({"saturated": ""}),
    Panel({"grad_norm": ""}),
    Panel({"learning_rate": ""}, exact=True),
)


def plot_curves(metrics: Path, target: Path) -> None:
    """Draw the curves of a run.

    Args:
        metrics: a run's `metrics.csv`. A panel whose columns are missing or empty is left out.
        target: the PNG to write.

    Raises:
        LabError: there is no step to draw, or the picture cannot be written.
    """
    # Imported here because it takes a second, and only the end of a run needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frame = pd.read_csv(metrics).set_index("step")
    panels = [panel for panel in PANELS if any(_has(frame, column) for column in panel.lines)]
    if not panels:
        raise LabError(f"{metrics} holds no step to draw curves from.")
    rows = -(-len(panels) // COLUMNS)
    height = 2.1 * rows + 0.5
    figure = Figure(figsize=(9.5, height))
    # Margins in inches by hand: matplotlib's own layouts draw the whole figure once more, and a sweep draws many.
    figure.subplots_adjust(
        left=0.075, right=0.915, top=1 - 0.3 / height, bottom=0.62 / height, hspace=0.42, wspace=0.36
    )
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, frame, panel)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[max(0, len(panels) - COLUMNS) : len(panels)]:
        axes.set_xlabel("optimiser step", fontsize=8)
    if len(frame) >= SMOOTH_FROM:
        note = f"thin: single steps; thick: mean of {_window(len(frame))} steps around"
        figure.text(0.01, 0.08 / height, note, fontsize=8, color="0.35")
    with atomic_path(target) as partial:
        figure.savefig(partial, dpi=130)


def _has(frame: pd.DataFrame, column: str) -> bool:
    return column in frame and bool(frame[column].notna().any())


def _window(steps: int) -> int:
    return steps // 20


def _draw(axes: "Axes", frame: pd.DataFrame, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
    if panel.zero:
        axes.axhline(0, color="0.35", linewidth=0.8, linestyle=":")
    ends = []
    for (column, label), (colour, style) in zip(panel.lines.items(), STYLES, strict=False):
        if not _has(frame, column):
            continue
        values = frame[column].dropna()
        smooth = len(values) >= SMOOTH_FROM and not panel.exact
        shown = values.rolling(_window(len(values)), center=True, min_periods=1).mean() if smooth else values
        if smooth:
            axes.plot(values.index, values, color=colour, alpha=0.3, linewidth=0.7)
        axes.plot(shown.index, shown, color=colour, linestyle=style, marker="o" if len(values) == 1 else None)
        if panel.band and _has(frame, panel.band):
            error = frame[panel.band].reindex(values.index)
            axes.fill_between(values.index, values - error, values + error, color=colour, alpha=0.15, linewidth=0)
        ends.append((shown.index[-1], shown.iloc[-1], label, colour))
    low, high = panel.metric.bounds
    if low is not None and high is not None:
        margin = 0.03 * (high - low)
        axes.set_ylim(low - margin, high + margin)
    if panel.exact:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.yaxis.get_offset_text().set_fontsize(8)
    _label_ends(axes, ends)


def _label_ends(axes: "Axes", ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's label at its end; of two lines the upper one's label goes up, so that they never overlap."""
    highest = max((height for _, height, _, _ in ends), default=0.0)
    for step, height, label, colour in ends:
        align = "bottom" if height == highest else "top"
        axes.annotate(label, (step, height), (4, 0), textcoords="offset points", va=align, fontsize=8, color=colour)
