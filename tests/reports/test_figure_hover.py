import re

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kto_lab.reports.figure_hover import Spot, svg


def drawn(name: str = "f") -> str:
    """A figure of 4 x 2 inches whose axes fill it, from 0 to 4 and 0 to 2: a data unit is an inch, or 72 points."""
    figure = Figure(figsize=(4, 2))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, 4), ylim=(0, 2))
    axes.scatter([1], [0.5])
    return svg(axes, [Spot(1, 0.5, "kto <a> & b\nseed 0: 0.5"), Spot(3, 1, "a cell", cell=True)], name)


def test_each_value_has_an_area_where_it_is_drawn() -> None:
    found = drawn()
    assert '<circle class="spot" cx="72.0" cy="108.0" r="6"><title>kto &lt;a&gt; &amp; b\nseed 0: 0.5</title>' in found
    assert '<rect class="spot" x="180.0" y="36.0" width="72.0" height="72.0"><title>a cell</title>' in found
    # Where matplotlib itself put the marker.
    assert re.search(r'<use xlink:href="#f-[^"]+" x="72" y="108"', found)


def test_it_can_be_put_into_a_page_with_others() -> None:
    first, second = drawn("a"), drawn("b figure")
    assert first == drawn("a")
    assert first.startswith("<svg ") and first.endswith("</svg>") and "<metadata>" not in first
    names = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert names[0] and not names[0] & names[1]
    for text, known in zip((first, second), names, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= known
