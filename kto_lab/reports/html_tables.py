"""Tables of a page: cells that sort by their full value, and say in small lines what else is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kto_lab.pages import render


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        lines: what stands in it; the first is its value.
        value: what it sorts by; None where it has none.
        mark: the HTML element that the value stands in, such as b; "" for none.
        hover: what a mouse shows beside: nothing that a reader needs.
        colour: of its left edge; "" for none.
        kind: its class in the style sheet.
        link: where the value leads to.
    """

    lines: Sequence[str]
    value: Any = ""
    mark: str = ""
    hover: str = ""
    colour: str = ""
    kind: str = ""
    link: str = ""


def words(text: str, colour: str = "", kind: str = "") -> Cell:
    """A cell that sorts by its text."""
    return Cell((text,), text, colour=colour, kind=kind)


def number(value: Any, hover: str = "") -> Cell:
    """A number that sorts by its full value; empty where there is none."""
    return Cell(("",), "", hover=hover) if value is None else Cell((f"{value:.4g}",), value, hover=hover, kind="n")


def html(name: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]], keys: int, caption: str = "") -> Markup:
    """A table as HTML.

    Args:
        name: its id in the page.
        heads: of its columns.
        rows: as many cells as heads each.
        keys: how many columns, from the left, say what a row is of.
        caption: below it.
    """
    return Markup(render("table.html", id=name, heads=heads, rows=rows, keys=keys, caption=caption))
