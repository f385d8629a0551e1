"""A study's figures, as PNG and PDF: readable in grey and in print, labelled where the lines end.

Bands are the intervals of `comparisons.mean_over_seeds`. Cells that are not there are counted below the figure. The
report's page has each as SVG, too, with what is behind a value to hover over.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import higher_is_better, label
from kto_lab.files import atomic_path
from kto_lab.reports.figure_hover import Spot, svg
from kto_lab.reports.figure_parts import (
    BASE_COLOUR,
    FONT,
    Style,
    axis_of,
    check_lines,
    draw_base,
    end_at_bounds,
    finish_x,
    label_ends,
    mark_edges,
    name_ticks,
    styles,
    x_label,
)
from kto_lab.reports.frame import (
    DONE,
    EDGES,
    SEED,
    Group,
    base_policy,
    check_metric,
    choices,
    grouped,
    measured,
    of_metrics,
    plain,
)
from kto_lab.reports.selection import EDGE_MARK, Searches, Selection, select
from kto_lab.reports.specs import FigureSpec, shown
from kto_lab.reports.tables import BASE
from kto_lab.reports.words import choice_label, choice_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "pdf")
WIDTH, HEIGHT = 6.4, 4.0


@dataclass(frozen=True)
class Drawn:
    """A figure.

    Attributes:
        files: one for each of `FORMATS`.
        svg: for a page, with its values to hover over.
    """

    files: Sequence[Path]
    svg: str


def plot(
    frame: pd.DataFrame,
    spec: FigureSpec,
    target: Path,
    folder: Path | None = None,
    searches: Searches | None = None,
) -> Drawn:
    """Draw a figure.

    Args:
        frame: from `kto_lab.reports.load`.
        spec: what to show.
        target: where to, without a suffix; one file is written for each of `FORMATS`.
        folder: of the study, which a search needs.
        searches: as in `select`.

    Raises:
        LabError: the specification does not fit the study, or a file cannot be written.
    """
    # Imported here because it takes a second, and a mistake in a table should show before.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    what = f"figure {spec.name}"
    selection = select(frame, spec, folder, searches)
    check_metric(selection.frame, spec.y, what)
    if not (selection.frame["status"] == DONE).any():
        raise LabError(f"{what}: no run of the study is done, so there is nothing to draw. Run the sweep first.")
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.tick_params(labelsize=FONT)
    axes.spines[["top", "right"]].set_visible(False)
    # Of the whole study: what a figure leaves out takes its colour with it.
    looks = styles(frame, spec.line) if spec.line in choices(frame) else {}
    # Names of arms and of settings are words: a dollar in one begins no formula.
    with mpl.rc_context({"text.parse_math": False}):
        note, spots = DRAWINGS[spec.kind](axes, selection, spec, what, looks)
        figure.supxlabel(
            textwrap.fill(_below(note, selection, spec), 120),
            fontsize=FONT - 1,
            x=0.01,
            ha="left",
            color="0.35",
            linespacing=1.3,
        )
    # But the powers that matplotlib itself writes at an axis are formulas.
    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                tick.label1.set_parse_math(True)
    # Laid out once: each file would be again, a little otherwise, since formats measure text differently.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    files = [target.with_name(f"{target.name}.{kind}") for kind in FORMATS]
    for file in files:
        # Fonts that can be searched; no date, so that the same records give the same file.
        with mpl.rc_context({"pdf.fonttype": 42}), atomic_path(file) as partial:
            figure.savefig(partial, dpi=200, metadata={"CreationDate": None} if file.suffix == ".pdf" else None)
    return Drawn(files, svg(axes, spots, spec.name))


def _below(note: str, selection: Selection, spec: FigureSpec) -> str:
    """What stands below a figure: what the marks are, what was left out or chosen, and what is lacking."""
    frame = selection.frame
    lacking = frame.loc[frame["status"] != DONE, "status"].value_counts()
    parts = [f"{note}.", *selection.notes]
    if selection.search and base_policy(frame, spec.y):
        parts.append(f"The {BASE}: as recorded, over all of its prompts.")
    if len(lacking):
        states = ", ".join(f"{count} {state}" for state, count in lacking.items())
        parts.append(f"Not shown, of {len(frame)} runs: {states}.")
    return " ".join(parts)


def _draw_lines(
    axes: "Axes", selection: Selection, spec: FigureSpec, what: str, looks: Mapping[Any, Style]
) -> tuple[str, list[Spot]]:
    """Metric y against choice x; returns what the bands are, and the points."""
    groups = _groups(selection, spec, what)
    axis = axis_of([x for _, x in groups], spec, what)
    ends: list[tuple[float, float, str, str]] = []
    spots: list[Spot] = []
    lines = list(dict.fromkeys(line for line, _ in groups))
    check_lines(lines, what)
    for line in lines:
        colour, dashes, marker = astuple(looks[line])
        found = {axis.place(x): (x, group) for (name, x), group in groups.items() if name == line and group.outcomes}
        if not found:
            continue
        xs = sorted(found)
        means = [found[x][1].mean for x in xs]
        ys = [float(mean.estimate.value or 0) for mean in means]
        axes.plot(xs, ys, color=colour, linestyle=dashes, marker=marker, markersize=4.5, linewidth=1.6)
        for x, y in zip(xs, ys, strict=True):
            if found[x][1].others:
                axes.plot(x, y, color=colour, marker=marker, markersize=4.5, markerfacecolor="white")
            spots.append(Spot(x, y, _words(spec, line, *found[x])))
        found_ends = [(x, mean.estimate.low, mean.estimate.high) for x, mean in zip(xs, means, strict=True)]
        bands = [(x, low, high) for x, low, high in found_ends if low is not None and high is not None]
        _draw_band(axes, bands, colour, faint=len(lines) > 4)
        mark_edges(axes, [(x, y) for x, y in zip(xs, ys, strict=True) if found[x][1].edges], colour)
        ends.append((xs[-1], ys[-1], shown(line), colour))
    finish_x(axes, axis, spec)
    axes.set_ylabel(label(spec.y), fontsize=FONT + 1)
    axes.grid(axis="y", color="0.92")
    base = draw_base(axes, selection.frame, spec.y)
    end_at_bounds(axes, spec.y)
    ends += [] if base is None else [(axes.get_xlim()[1], base, BASE, BASE_COLOUR)]
    label_ends(axes, ends)
    intervals = {group.mean.interval for group in groups.values() if group.outcomes}
    hollow = "; hollow: some of its seeds are lacking" if any(group.others for group in groups.values()) else ""
    return _about(groups, intervals - {None}) + hollow, spots


def _draw_band(axes: "Axes", bands: Sequence[tuple[float, float, float]], colour: str, *, faint: bool) -> None:
    """The intervals (x, low, high) of a line; one alone is a bar. Many bands are faint, or they hide the lines."""
    if len(bands) == 1:
        axes.vlines(*bands[0], color=colour, linewidth=1.2)
    elif bands:
        across, low, high = zip(*bands, strict=True)
        axes.fill_between(across, low, high, color=colour, alpha=0.05 if faint else 0.12, linewidth=0)
        for edge in (low, high):
            axes.plot(across, edge, color=colour, linewidth=0.4, alpha=0.35 if faint else 0.6)


def _draw_heatmap(
    axes: "Axes", selection: Selection, spec: FigureSpec, what: str, looks: Mapping[Any, Style]
) -> tuple[str, list[Spot]]:
    """Metric y in numbers, choice x across and choice `line` down."""
    groups = _groups(selection, spec, what)
    columns = axis_of([x for _, x in groups], spec, what).values
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
    spots = []
    for row, line in enumerate(rows):
        for column, x in enumerate(columns):
            # Where white reads better than black on the grey there.
            dark = values[row, column] > low + 0.85 * pad
            there = groups.get((line, x))
            text = _in_cell(there, digits)
            axes.text(column, row, text, ha="center", va="center", fontsize=FONT, color="white" if dark else "black")
            spots += [Spot(column, row, _words(spec, line, x, there), cell=True)] if there else []
    name_ticks(axes, range(len(columns)), [shown(x) for x in columns])
    axes.set_yticks(range(len(rows)), [shown(line) for line in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(x_label(spec), fontsize=FONT + 1)
    axes.set_ylabel(choice_label(spec.line), fontsize=FONT + 1)
    axes.set_title(label(spec.y), loc="left", fontsize=FONT + 1)
    return _about(groups, set()), spots


def _draw_frontier(
    axes: "Axes", selection: Selection, spec: FigureSpec, what: str, looks: Mapping[Any, Style]
) -> tuple[str, list[Spot]]:
    """Metric y against metric x, one point per run, and a line along the best means over seeds."""
    check_metric(selection.frame, spec.x, what)
    frame = of_metrics(selection.frame, [spec.x, spec.y])
    if spec.line not in choices(frame):
        raise LabError(f"{what}: {spec.line!r} is no choice of this study. Choices are {', '.join(choices(frame))}.")
    names = list(dict.fromkeys(plain(value) for value in frame[spec.line]))
    keys, spots, better = choices(frame), [], higher_is_better(spec.y)
    check_lines(names, what)
    for name in names:
        colour, dashes, marker = astuple(looks[name])
        cells = frame[[plain(value) == name for value in frame[spec.line].tolist()]]
        mine = cells.dropna(subset=[spec.x, spec.y])
        found = mine[[spec.x, spec.y]].astype(float)
        if found.empty:
            continue
        axes.scatter(
            found[spec.x], found[spec.y], s=26, color=colour, marker=marker, alpha=0.7, linewidth=0, label=shown(name)
        )
        along = [] if better is None else _along(cells, spec, higher_is_better=better)
        # Of one setting it would be a dot.
        if len(set(along)) > 1:
            axes.step([x for x, _ in along], [y for _, y in along], color=colour, ls=dashes, lw=1.2, where="post")
        for run, x, y in zip(
            mine[[name for name in (*keys, SEED, EDGES) if name in mine]].to_dict("records"),
            found[spec.x],
            found[spec.y],
            strict=True,
        ):
            has = ", ".join(choice_words(key, plain(run[key])) for key in (*keys, SEED) if plain(run[key]) is not None)
            mark_edges(axes, [(x, y)] if plain(run.get(EDGES)) else [], colour)
            spots.append(Spot(x, y, f"{has}\n{label(spec.y)} {y:.4g}\n{label(spec.x)} {x:.4g}"))
    if spec.log_x:
        if (frame[spec.x].dropna() <= 0).any():
            raise LabError(f"{what}: {label(spec.x)} is zero or less in some run, which has no place on a log axis.")
        axes.set_xscale("log")
    axes.set_xlabel(x_label(spec), fontsize=FONT + 1)
    axes.set_ylabel(label(spec.y), fontsize=FONT + 1)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    has_line = bool(axes.lines)
    draw_base(axes, selection.frame, spec.y)
    for metric, which in ((spec.x, "x"), (spec.y, "y")):
        end_at_bounds(axes, metric, which)
    _legend(axes)
    line = f"; a line: the best mean over seeds of a complete setting with no more {label(spec.x)}"
    return f"A point is a run{line if has_line else ''}", spots


def _along(cells: pd.DataFrame, spec: FigureSpec, *, higher_is_better: bool) -> list[tuple[float, float]]:
    """The frontier of the means over seeds, to the end of the last; settings that lack a run have none."""
    settings = [cells[key].map(plain).map(shown) for key in choices(cells)]
    values = cells[[spec.x, spec.y]].astype(float).groupby(settings, sort=False)
    means = values.agg(lambda column: column.mean(skipna=False)).dropna()
    found = frontier(means[spec.x].tolist(), means[spec.y].tolist(), higher_is_better=higher_is_better)
    return [*found, (float(means[spec.x].max()), found[-1][1])] if found else []


def frontier(xs: Sequence[float], ys: Sequence[float], *, higher_is_better: bool) -> list[tuple[float, float]]:
    """The points (x, y) that are better in y than every point of less x, in the order of x."""
    found: list[tuple[float, float]] = []
    sign = 1 if higher_is_better else -1
    for x, y in sorted(zip(xs, ys, strict=True), key=lambda point: (point[0], -sign * point[1])):
        if not found or sign * y > sign * found[-1][1]:
            found.append((x, y))
    return found


def _draw_seeds(
    axes: "Axes", selection: Selection, spec: FigureSpec, what: str, looks: Mapping[Any, Style]
) -> tuple[str, list[Spot]]:
    """Metric y of every run, side by side for each value of choice x; a bar is the mean."""
    groups = _groups(selection, spec, what)
    values = axis_of([x for _, x in groups], spec, what).values
    lines = list(dict.fromkeys(line for line, _ in groups))
    # Where the lines are the columns, too, each column has the points of one, and says which.
    beside = spec.line != spec.x
    step = 0.8 / len(lines) if beside else 0.4
    if beside:
        check_lines(lines, what)
    spots = []
    for place, line in enumerate(lines):
        colour, _, marker = astuple(looks[line])
        for column, x in enumerate(values):
            group = groups.get((line, x))
            if group is None or not group.outcomes:
                continue
            middle = column + (place - (len(lines) - 1) / 2) * step * beside
            ys = [outcome.value for outcome in group.outcomes.values()]
            axes.hlines(float(np.mean(ys)), middle - 0.4 * step, middle + 0.4 * step, color=colour, linewidth=1.6)
            axes.scatter([middle] * len(ys), ys, s=22, color=colour, marker=marker, alpha=0.75, linewidth=0)
            mark_edges(axes, [(middle + 0.4 * step, float(np.mean(ys)))] if group.edges else [], colour)
            spots += [Spot(middle, y, _words(spec, line, x, group)) for y in ys]
        axes.scatter([], [], s=22, color=colour, marker=marker, linewidth=0, label=shown(line))
    for column in range(1, len(values)):
        axes.axvline(column - 0.5, color="0.92", linewidth=0.8)
    name_ticks(axes, range(len(values)), [shown(x) for x in values])
    axes.set_xlabel(x_label(spec), fontsize=FONT + 1)
    axes.set_ylabel(label(spec.y), fontsize=FONT + 1)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    based = draw_base(axes, selection.frame, spec.y) is not None
    end_at_bounds(axes, spec.y)
    if beside or based:
        _legend(axes, [shown(line) for line in lines] * beside + [BASE] * based)
    return "A point is a run, a bar the mean over its seeds", spots


def _legend(axes: "Axes", names: Sequence[str] | None = None) -> None:
    """Names above the axes, all or these: where points scatter, a name beside one of them would say little."""
    handles = [(handle, name) for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)]
    kept = [one for one in handles if names is None or one[1] in names]
    axes.legend(
        *zip(*kept, strict=True),
        frameon=False,
        fontsize=FONT,
        ncols=4,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        handletextpad=0.2,
    )


DRAWINGS = {"line": _draw_lines, "heatmap": _draw_heatmap, "frontier": _draw_frontier, "seeds": _draw_seeds}


def _groups(selection: Selection, spec: FigureSpec, what: str) -> dict[tuple[Any, Any], Group]:
    """The cells of each value of `line` and x."""
    keys = list(dict.fromkeys([spec.line, spec.x]))
    found = grouped(of_metrics(selection.frame, [spec.y]), keys, what)
    return {(key[0], key[-1]): measured(part, spec.y, selection.scores, what) for key, part in found.items()}


def _words(spec: FigureSpec, line: Any, x: Any, group: Group) -> str:
    """All that is known of a mean, in lines."""
    places = dict.fromkeys([choice_words(spec.line, line), choice_words(spec.x, x)])
    found, lines = group.mean.estimate, [", ".join(places)]
    if found.value is not None:
        ends = "" if found.low is None else f" [{found.low:.4g}, {found.high:.4g}] over {group.mean.interval}"
        lines.append(f"{label(spec.y)} {found.value:.4g}{ends}")
    lines += [f"seed {seed}: {outcome.value:.4g}" for seed, outcome in sorted(group.outcomes.items())]
    return "\n".join([*lines, *(f"{count} {state}" for state, count in group.others.items())])


def _in_cell(group: Group | None, digits: int) -> str:
    """What stands in a cell of a heat map."""
    if group is None:
        return ""
    if group.mean.estimate.value is None:
        return "\n".join(group.others)
    lacking = f"\n{len(group.outcomes)} of {group.planned}" if group.others else ""
    return f"{group.mean.estimate.value:.{digits}f}{EDGE_MARK if group.edges else ''}{lacking}"


def _about(groups: Mapping[Any, Group], intervals: set[str | None]) -> str:
    """What a mean is over, and its band."""
    counts = sorted({len(group.outcomes) for group in groups.values() if group.outcomes})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    mean = "One seed" if counts == [1] else f"Mean of {seeds} seeds"
    over = ", or over ".join(sorted(filter(None, intervals)))
    return f"{mean}; band: 95 % interval over {over}" if over else mean
