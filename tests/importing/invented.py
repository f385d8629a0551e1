"""Exports that are made in memory, and imports of them."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kto_lab.importing.command import import_thumbs
from kto_lab.importing.report import Report
from kto_lab.importing.settings import Settings, settings
from kto_lab.importing.thumbs import Row, Thumb
from tests.small_runs import composed


@dataclass(frozen=True)
class Invented:
    """An export of rows that are given."""

    rows: list[Row]
    cut_at: int | None = None

    def read(self) -> Iterator[Row]:
        return iter(self.rows)


def thumb(where: str = "a:1", **changes: Any) -> Thumb:
    plain: dict[str, Any] = {"prompt": "What is 1+1?", "completion": "Two", "desirable": True}
    return Thumb(where=where, **{**plain, **changes})


def rows(*thumbs: Thumb) -> list[Row]:
    """A row for each thumb."""
    return [Row(thumbs=(one,)) for one in thumbs]


@functools.cache
def configured(words: tuple[str, ...]) -> Settings:
    """The settings that a command line gives; to compose one takes longer than a small import."""
    return settings(composed(["export.path=none", "output=none", *words], name="import"))


def imported(folder: Path, given: list[Row], *words: str) -> tuple[Report, list[dict[str, Any]]]:
    """The report and the table of an import with settings as on the command line."""
    file = folder / "thumbs.parquet"
    file.unlink(missing_ok=True)
    report = import_thumbs(Invented(given), file, configured(words), source="invented")
    return report, pq.read_table(file).to_pylist()
