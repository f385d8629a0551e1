"""A study's tables and figures in a notebook, made of its records at the moment that a cell asks.

import kto_lab.reports
study = kto_lab.reports.open_study("results/label_noise")
study.frame                  # a pandas frame, one row per run
study.table("pass_rate")     # as its report has it
study.figure("pass_rate")
study.contrasts()            # what became of the contrasts that it named
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from kto_lab.errors import LabError
from kto_lab.reports.figures import FORMATS, plot
from kto_lab.reports.frame import load
from kto_lab.reports.sheets import contrast_sheet
from kto_lab.reports.specs import FigureSpec, TableSpec, parse
from kto_lab.reports.table_formats import markdown, sheet_markdown
from kto_lab.reports.tables import build
from kto_lab.reports.verdicts import Verdict, finished_before, verdicts
from kto_lab.sweeps.contrasts import read_contrasts
from kto_lab.sweeps.manifest import StudyFolder, read_study


@dataclass(frozen=True)
class ShownTable:
    """A table that a notebook shows as Markdown."""

    text: str = field(repr=False)

    def _repr_markdown_(self) -> str:
        return self.text


@dataclass(frozen=True)
class ShownFigure:
    """A figure that a notebook shows as a picture."""

    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png


class OpenStudy:
    """A study's folder, and what can be shown of it."""

    def __init__(self, folder: Path | str) -> None:
        """Read `study.json`.

        Raises:
            LabError: there is none.
        """
        self.about: StudyFolder = read_study(Path(folder))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The runs, one per row: see `kto_lab.reports.load`."""
        return load(self.about.folder)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """What became of its contrasts."""
        nodes, folder = self.about.contrasts, self.about.folder
        named = read_contrasts(nodes, self.about.name)
        return verdicts(self.frame, named, folder, {}, finished_before(self.about, nodes, self.frame))

    def contrasts(self) -> ShownTable:
        """The verdicts on its contrasts, as the report's table has them."""
        return ShownTable(sheet_markdown(contrast_sheet(self.verdicts)))

    def table(self, name: str, **changes: Any) -> ShownTable:
        """A table of the study; `changes` are keys of its specification with other values.

        Raises:
            LabError: there is no such table, or it does not fit.
        """
        spec = parse(_named(self.about.tables, name, "table") | changes, TableSpec)
        return ShownTable(markdown(build(self.frame, spec, self.about.folder, {}, self.verdicts)))

    def figure(self, name: str, **changes: Any) -> ShownFigure:
        """A figure of the study; `changes` are keys of its specification with other values.

        Raises:
            LabError: there is no such figure, or it does not fit.
        """
        spec = parse(_named(self.about.figures, name, "figure") | changes, FigureSpec)
        with tempfile.TemporaryDirectory() as scratch:
            drawn = plot(self.frame, spec, Path(scratch) / name, self.about.folder)
            return ShownFigure(drawn.files[FORMATS.index("png")].read_bytes())


def _named(nodes: Sequence[Mapping[str, Any]], name: str, what: str) -> dict[str, Any]:
    """The specification of a name."""
    names = [str(node.get("name")) for node in nodes]
    if name not in names:
        raise LabError(f"The study has no {what} {name!r}. It has {', '.join(names) or 'none'}.")
    return dict(nodes[names.index(name)])
