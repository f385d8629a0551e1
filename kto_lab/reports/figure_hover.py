"""A figure as SVG for a page: the drawing, and over each value an area that says more when it is hovered over."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of an area over a point, in points of the page.
RADIUS = 6.0


@dataclass(frozen=True)
class Spot:
    """A value of a figure.

    Attributes:
        x: where it is, in data units.
        y: likewise.
        words: what there is to say, in lines.
        cell: whether it fills a cell of a heat map, one data unit wide and high, rather than be a point.
    """

    x: float
    y: float
    words: str
    cell: bool = False


def svg(axes: "Axes", spots: Sequence[Spot], name: str) -> str:
    """The figure of these axes, text as outlines, with the spots over it; the same drawing gives the same text.

    Args:
        axes: of the figure, which has been drawn.
        spots: its values.
        name: of the figure, which its identities start with: a page holds several.
    """
    import matplotlib as mpl

    figure = axes.get_figure(root=True)
    assert figure is not None
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = file.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    own = re.sub(r"[^A-Za-z0-9]", "-", name)
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", drawn)
    points, height = 72 / figure.dpi, figure.get_figheight() * 72
    # All corners at once: to carry over one takes as long as a thousand.
    halves = np.array([0.5 if spot.cell else 0.0 for spot in spots]).reshape(-1, 1)
    middles = np.array([(spot.x, spot.y) for spot in spots], dtype=float).reshape(-1, 2)
    corners = (axes.transData.transform(middles + way * halves) * points for way in (-1, 1))
    areas = []
    for spot, (left, low), (right, high) in zip(spots, *corners, strict=True):
        title = f"<title>{escape(spot.words)}</title>"
        if spot.cell:
            place = f'x="{left:.1f}" y="{height - max(low, high):.1f}"'
            size = f'width="{right - left:.1f}" height="{abs(high - low):.1f}"'
            areas.append(f'<rect class="spot" {place} {size}>{title}</rect>')
        else:
            place = f'cx="{left:.1f}" cy="{height - low:.1f}"'
            areas.append(f'<circle class="spot" {place} r="{RADIUS:g}">{title}</circle>')
    end = drawn.rindex("</svg>")
    return drawn[:end] + "\n".join(areas) + "\n</svg>"
