"""From the cells of a study to what Hydra makes of them: configurations, and the identity of each run.

To compose a configuration takes a tenth of a second and more, so what came of it is kept beside the study. It is taken
again where nothing has changed that it was made of: the overrides, every file of configuration that Hydra can see, the
code, and the local files that the configuration names.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from kto_lab.evaluation.lm_eval_tasks import CHECKS, require_checks
from kto_lab.evaluation.settings import Evaluation
from kto_lab.feedback.table import of_split
from kto_lab.files import write_json
from kto_lab.hashing import content_hash
from kto_lab.runs.identity import OF_JUDGES, code_version, identified, plain_values, stamp
from kto_lab.sweeps.estimates import Work, work_of
from kto_lab.sweeps.study import Cell

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
        self._searched = bool(OmegaConf.select(config, "hydra.searchpath"))
        self._parsed: dict[str, tuple[Override, bool]] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._keeps = not self._searched and not any(FROM_ELSEWHERE in text for text in (*texts, *own))
        self._ground = content_hash(texts, list(own), code_version(OF_JUDGES))
        self._before = _read(kept) if self._keeps else {}
        self._now: dict[str, dict[str, Any]] = {}
        self._stamps: dict[str, str] = {}
        self._checked: set[str] = set()

    def plan(self, cell: Cell) -> Planned:
        """The identity of a cell's run, and its folder."""
        key = content_hash(self._ground, list(cell.overrides))
        known = self._before.get(key)
        if known is None or {name: self._stamp(name) for name in known["files"]} != known["files"]:
            composed = self.compose(cell)
            self._require_checks(composed)
            work = asdict(work_of(plain_values(composed)))
            identity, files = identified(composed)
            known = {"run_id": identity, "files": files, "work": work}
        self._now[key] = known
        return Planned(cell, known["run_id"], self.runs / "cells" / known["run_id"], Work(**known["work"]))

    def _require_checks(self, composed: DictConfig) -> None:
        """LabError where a cell's evaluation asks for checks by name and its held-out prompts have none.

        It would fail in every cell with this feedback, each after a start of its own. Other feedback is not read here.
        """
        nodes = content_hash(plain_values(composed.evaluation), plain_values(composed.feedback))
        if nodes in self._checked:
            return
        self._checked.add(nodes)
        settings: Evaluation = instantiate(composed.evaluation)
        if CHECKS in settings.lm_eval:
            require_checks(of_split(instantiate(composed.feedback), "test"), settings.lm_eval_limit)

    def compose(self, cell: Cell) -> DictConfig:
        """The configuration of a cell's run, as `train` takes it."""
        parsed = [self._parse(word) for word in cell.overrides]
        # Which files are read depends on the options that are chosen; values are put in after that, by Hydra as here.
        chosen = tuple(word for word, (_, chooses) in zip(cell.overrides, parsed, strict=True) if chooses)
        if chosen not in self._bases:
            self._bases[chosen] = self._base(chosen)
        composed = copy.deepcopy(self._bases[chosen])
        try:
            ConfigLoaderImpl._apply_overrides_to_config([one for one, chooses in parsed if not chooses], composed)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException() from error
        # A copy that is open, as a node's constructor is handed one.
        own = OmegaConf.masked_copy(composed, [str(key) for key in composed])
        assert isinstance(own, DictConfig)
        return own

    def _base(self, chosen: Sequence[str]) -> DictConfig:
        """The configuration that options make, before values are put in."""
        composed = self.hydra.config_loader.load_sweep_config(self.config, list(chosen))
        with open_dict(composed):
            for key in ("study", "hydra"):
                composed.pop(key, None)
        return composed

    def _parse(self, word: str) -> tuple[Override, bool]:
        """An override, and whether it chooses files. Cells share most of them."""
        if word not in self._parsed:
            override = OverridesParser.create().parse_override(word)
            self._parsed[word] = (override, self._chooses(override))
        return self._parsed[word]

    def _chooses(self, override: Override) -> bool:
        """Whether an override chooses files; what is neither that nor a plain value is left to Hydra's whole way."""
        if self._searched or override.is_sweep_override() or override.key_or_group.startswith("hydra"):
            return True
        loader = self.hydra.config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        return not isinstance(override.value(), dict) and loader.repository.group_exists(override.key_or_group)

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
