"""From the cells of a study to what Hydra makes of them: configurations, and the identity of each run.

To compose a configuration takes a tenth of a second and more, so what came of it is kept beside the study. It is taken
again where nothing has changed that it was made of: the overrides, every file of configuration that Hydra can see, the
code, and the local files that the configuration names.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from omegaconf import DictConfig, OmegaConf

from kto_lab.feedback.table import content_hash
from kto_lab.files import write_json
from kto_lab.studies.estimates import Work, work_of
from kto_lab.studies.identity import code_version, plain_values, run_id, stamp, stamps
from kto_lab.studies.study import Cell

PLAN = "plan.json"
# What a configuration reads from elsewhere than its files: then nothing is kept.
FROM_ELSEWHERE = "${oc.env"
LOCAL = "file://"


@dataclass(frozen=True)
class Planned:
    """A cell that Hydra could compose.

    Attributes:
        cell: its choices and overrides.
        run_id: its identity.
        folder: where its run is.
        work: what it has to do.
    """

    cell: Cell
    run_id: str
    folder: Path
    work: Work


class Composer:
    """Composes cells, and remembers their identities from one sweep to the next."""

    def __init__(self, hydra: Hydra, config: DictConfig, *, own: Sequence[str], runs: Path, kept: Path) -> None:
        """Read what an earlier sweep has kept.

        Args:
            hydra: with its search path.
            config: of the sweep, composed.
            own: the sweep's own overrides.
            runs: where runs are.
            kept: the file that identities are kept in.
        """
        self.hydra, self.config, self.runs, self.kept = hydra, config, runs, kept
        places = [place.path for place in hydra.config_loader.get_search_path().get_path()]
        folders = [Path(place.removeprefix(LOCAL)) for place in places if place.startswith(LOCAL)]
        texts = [file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.rglob("*.yaml"))]
        searched = bool(OmegaConf.select(config, "hydra.searchpath"))
        self._keeps = not searched and not any(FROM_ELSEWHERE in text for text in (*texts, *own))
        self._ground = content_hash(texts, list(own), code_version())
        self._before = _read(kept) if self._keeps else {}
        self._now: dict[str, dict[str, Any]] = {}
        self._stamps: dict[str, str] = {}

    def plan(self, cell: Cell) -> Planned:
        """The identity of a cell's run, and its folder."""
        key = content_hash(self._ground, list(cell.overrides))
        known = self._before.get(key)
        if known is None or {name: self._stamp(name) for name in known["files"]} != known["files"]:
            composed = self.compose(cell)
            work = asdict(work_of(plain_values(composed)))
            known = {"run_id": run_id(composed), "files": stamps(composed), "work": work}
        self._now[key] = known
        return Planned(cell, known["run_id"], self.runs / "cells" / known["run_id"], Work(**known["work"]))

    def compose(self, cell: Cell) -> DictConfig:
        """The configuration of a cell's run, as `train` takes it."""
        composed = self.hydra.config_loader.load_sweep_config(self.config, list(cell.overrides))
        own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in ("study", "hydra")])
        assert isinstance(own, DictConfig)
        return own

    def keep(self) -> None:
        """Keep the identities of the cells that were planned, for the next sweep."""
        if self._keeps and self._now != self._before:
            write_json(self.kept, self._now)

    def _stamp(self, name: str) -> str:
        if name not in self._stamps:
            self._stamps[name] = stamp(Path(name))
        return self._stamps[name]


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """What was kept; nothing where there is none, or it is damaged: it is only what can be made again."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(key): {"run_id": str(value["run_id"]), "files": dict(value["files"]), "work": dict(value["work"])}
            for key, value in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
