"""Finished runs that a sweep can take its cells from, and in what the nearest of them differs from a missing cell.

They are those in the folder of runs, and those that were published with a study (`results/<study>/cells`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kto_lab.errors import LabError
from kto_lab.runs.differences import differences, shown
from kto_lab.runs.identity import Identity, differing, settings
from kto_lab.runs.record import RECORD, find_record

# The folder of runs that are named by their identity.
CELLS = "cells"
EVERYTHING = "all"


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        run_id: of the run.
        folder: where its record is.
        settings: of its configuration, what can change its result.
        identity: its parts; None where its record is of schema 1, which has none.
        pairs: of the settings, to compare quickly.
    """

    run_id: str
    folder: Path
    settings: Mapping[str, Any]
    identity: Identity | None
    pairs: frozenset[tuple[str, str]] = field(repr=False)


class FinishedRuns:
    """The finished runs in a folder of runs, and published ones."""

    def __init__(self, runs: Path, published: Path | None = None) -> None:
        """Look where published runs are; records are read when they are asked for.

        Args:
            runs: the folder of runs.
            published: a folder of published studies.
        """
        self.runs = runs
        places = published.glob(f"*/{CELLS}/*") if published is not None else ()
        self._published = {place.name: place for place in sorted(places)}

    def folder(self, run_id: str) -> Path:
        """Where a run is, or is to be made."""
        own = self.runs / CELLS / run_id
        published = self._published.get(run_id)
        return own if published is None or (own / RECORD).exists() else published

    @cached_property
    def every(self) -> list[Finished]:
        """All of them, those in the folder of runs first; a record that cannot be read is passed over."""
        folders = [*sorted(file.parent for file in self.runs.glob(f"{CELLS}/*/{RECORD}")), *self._published.values()]
        return [run for folder in folders if (run := _read(folder)) is not None]

    @cached_property
    def _by_inputs(self) -> dict[tuple[Any, ...], list[Finished]]:
        found: dict[tuple[Any, ...], list[Finished]] = {}
        for run in self.every:
            if run.identity is not None:
                found.setdefault(_inputs(run.identity), []).append(run)
        return found

    def of_other_code(self, identity: Identity, parts: Sequence[str]) -> tuple[Finished, list[str]] | None:
        """The finished run that differs from a cell least, and by its code alone, and only where that is accepted.

        Args:
            identity: of the cell.
            parts: names of modules that may differ, with all that is in them; "all" for any.

        Returns:
            The run, and the modules and files that differ; None where there is none.
        """
        alike = self._by_inputs.get(_inputs(identity), ())
        found = [(run, differing(run.identity.code, identity.code)) for run in alike if run.identity is not None]
        accepted = [one for one in found if all(_is_of(name, parts) for name in one[1])]
        return min(accepted, key=lambda one: len(one[1]), default=None)

    def why_missing(self, identity: Identity, found: Mapping[str, Any]) -> str:
        """In what the nearest finished run differs from a cell that is missing.

        Args:
            identity: of the cell.
            found: its settings.
        """
        alike = self._by_inputs.get(_inputs(identity)) or self.every
        if not alike:
            return "there is no finished run to compare with"
        pairs = _pairs(found)
        nearest = min(alike, key=lambda run: (len(run.pairs ^ pairs), _apart(run.identity, identity)))
        told = differences(nearest.settings, nearest.identity, found, identity)
        return f"{'; '.join(told)} (nearest: {nearest.folder})"


def _inputs(identity: Identity) -> tuple[Any, ...]:
    """All of an identity but its code."""
    return identity.configuration, tuple(sorted(identity.data.items())), tuple(sorted(identity.model.items()))


def _is_of(name: str, parts: Sequence[str]) -> bool:
    """Whether a module, or a file of a package, is one of some parts, or in one."""
    return any(part == EVERYTHING or name == part or name.startswith((f"{part}.", f"{part}/")) for part in parts)


def _apart(one: Identity | None, other: Identity) -> int:
    """In how many files and modules two runs differ; those whose identity is not known come last."""
    if one is None:
        return len(other.data) + len(other.model) + len(other.code) + 1
    return sum(
        len(differing(before, now))
        for before, now in ((one.data, other.data), (one.model, other.model), (one.code, other.code))
    )


def _pairs(found: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((key, shown(found, key)) for key in found)


def _read(folder: Path) -> Finished | None:
    try:
        record = find_record(folder)
        if record is None:
            return None
        found, parts = settings(record["config"]), record.get("identity")
        identity = Identity(**parts) if parts else None
        return Finished(record["run_id"], folder, found, identity, _pairs(found))
    except (LabError, KeyError, TypeError, AttributeError):
        return None
