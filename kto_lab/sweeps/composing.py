"""From the cells of a study to what Hydra makes of them: configurations, and the identity of each run.

To compose a configuration takes a tenth of a second and more, so what came of it is kept beside the study, with the
parts of each identity. It is taken again where nothing has changed that it was made of: the overrides, every file of
configuration that Hydra can see, and the local files and the modules that the configuration names.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from kto_lab.errors import LabError
from kto_lab.evaluation.lm_eval_tasks import CHECKS, require_checks
from kto_lab.evaluation.settings import Evaluation
from kto_lab.hashing import content_hash
from kto_lab.keys import TRAIN
from kto_lab.quoting import quoted
from kto_lab.runs.identity import (
    CODE,
    Identity,
    identity_of,
    may_be_code,
    may_be_path,
    plain_values,
    roots,
    settings,
    stamp,
)
from kto_lab.runs.status import status
from kto_lab.sealed import read_json, recover, write_json
from kto_lab.sweeps.estimates import Work, work_of
from kto_lab.sweeps.finished import FinishedRuns
from kto_lab.sweeps.study import Cell
from kto_lab.values import check

PLAN = "plan.json"
# What a configuration reads from elsewhere than its files: then nothing is kept.
FROM_ELSEWHERE = "${oc.env"
LOCAL = "file://"


@dataclass(frozen=True)
class Planned:
    """A cell that Hydra could compose.

    Attributes:
        cell: its choices and overrides.
        run_id: of the run that stands for it.
        folder: where that run is.
        work: what it has to do.
        identity: of the cell.
        accepted: modules and files in which that run was of other code, where that is accepted.
    """

    cell: Cell
    run_id: str
    folder: Path
    work: Work
    identity: Identity
    accepted: tuple[str, ...] = ()


@contextmanager
def opened(
    config_dir: Path, own: Sequence[str], *, more: Path | None = None
) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """Hydra's loader of configurations for a block, and the configuration of the sweep itself.

    Args:
        config_dir: conf/.
        own: the sweep's own overrides.
        more: a folder of configuration beside it.
    """
    search = [f"hydra.searchpath=[{quoted(f'{LOCAL}{more.resolve()}')}]"] if more else []
    # A cell has a folder of its own, which is not one of a multirun's.
    here = ["hydra.sweep.dir=.", "hydra.sweep.subdir=."]
    with initialize_config_dir(str(config_dir), job_name="kto-lab", version_base="1.3"):
        config = compose("train", [*here, *own, *search], return_hydra_config=True)
        yield GlobalHydra.instance().config_loader(), config


class Composer:
    """Composes cells, and remembers their identities from one sweep to the next."""

    def __init__(
        self,
        loader: ConfigLoader,
        config: DictConfig,
        *,
        own: Sequence[str],
        kept: Path,
        finished: FinishedRuns,
        accept_code: Sequence[str] = (),
    ) -> None:
        """Read what an earlier sweep has kept.

        Args:
            loader: Hydra's, with its search path.
            config: of the sweep, composed.
            own: the sweep's own overrides.
            kept: the file that identities are kept in.
            finished: runs that may stand for cells.
            accept_code: modules that may have been others in those; see `FinishedRuns.of_other_code`.
        """
        self.loader, self.config, self.kept = loader, config, kept
        self.finished, self.accept_code = finished, accept_code
        self._more = [str(place) for place in config.hydra.searchpath or ()]
        places = [*(place.path for place in loader.get_search_path().get_path()), *self._more]
        folders = [Path(place.removeprefix(LOCAL)) for place in places if place.startswith(LOCAL)]
        texts = [file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.rglob("*.yaml"))]
        self._parsed: dict[str, tuple[Override, bool]] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}
        self._keeps = all(place.startswith(LOCAL) for place in self._more) and not any(
            FROM_ELSEWHERE in text for text in (*texts, *own)
        )
        self._ground = content_hash(texts, list(own))
        self._content = _read(kept) if self._keeps else {}
        self._before = _checked(self._content)
        self._now: dict[str, dict[str, Any]] = {}
        self._stamps: dict[str, str] = {}
        self._modules: dict[str, str | None] = {}
        self._closures: dict[tuple[str, ...], dict[str, str]] = {}
        self._checked: set[str] = set()

    def plan(self, cell: Cell) -> Planned:
        """The identity of a cell's run, and its folder."""
        key = content_hash(self._ground, list(cell.overrides))
        known = self._before.get(key)
        if known is None or not self._is_as_before(known):
            composed = self.compose(cell)
            values = plain_values(composed)
            _check(cell, values)
            self._require_checks(composed)
            found = settings(values)
            identity = identity_of(found, stamp=self._stamp, code={})
            known = {
                "identity": {part: held for part, held in asdict(identity).items() if part != "code"},
                "files": {text: self._stamp(text) for text in found.values() if may_be_path(text)},
                "modules": {text: self._module(text) for text in found.values() if may_be_code(text)},
                "work": _as_kept(work_of(values)),
            }
        self._now[key] = known
        identity = Identity(**known["identity"], code=self._code(_roots(known)))
        run_id = identity.run_id
        planned = Planned(cell, run_id, self.finished.folder(run_id), _work(known), identity)
        return self._accepted(planned) if self.accept_code else planned

    def _accepted(self, planned: Planned) -> Planned:
        """The cell with the finished run of other code that stands for it, where it has none of its own."""
        if (
            status(planned.folder) == "done"
            or (found := self.finished.of_other_code(planned.identity, self.accept_code)) is None
        ):
            return planned
        run, modules = found
        return replace(planned, run_id=run.run_id, folder=run.folder, accepted=tuple(modules))

    def settings(self, cell: Cell) -> dict[str, Any]:
        """What of the configuration of a cell can change its result."""
        return settings(plain_values(self.compose(cell)))

    def _require_checks(self, composed: DictConfig) -> None:
        """LabError where a cell's evaluation asks for checks by name and its held-out prompts have none.

        It would fail in every cell with this feedback, each after a start of its own. Other feedback is not read here.
        """
        nodes = content_hash(plain_values(composed.evaluation), plain_values(composed.feedback))
        if nodes in self._checked:
            return
        self._checked.add(nodes)
        # Here, since pyarrow takes a while to import, and mistakes are said before.
        from kto_lab.feedback.table import of_split

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
            for one, chooses in parsed:
                if not chooses:
                    OmegaConf.update(composed, one.key_or_group, one.value(), merge=True)
        except OmegaConfBaseException:
            # Hydra says best what does not fit.
            self.loader.load_sweep_config(self.config, list(cell.overrides))
            raise
        # A copy that is open, as a node's constructor is handed one.
        own = OmegaConf.masked_copy(composed, [str(key) for key in composed])
        assert isinstance(own, DictConfig)
        return own

    def _base(self, chosen: Sequence[str]) -> DictConfig:
        """The configuration that options make, before values are put in."""
        composed = self.loader.load_sweep_config(self.config, list(chosen))
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
        key = override.key_or_group
        return (
            override.is_sweep_override()
            or override.type is not OverrideType.CHANGE
            or override.package is not None
            or isinstance(override.value(), dict)
            or key.startswith("hydra")
            or self._is_group(key)
        )

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            search = [f"hydra.searchpath=[{','.join(map(quoted, self._more))}]"] if self._more else []
            options = self.loader.get_group_options(key, None, config_name=None, overrides=search)
            self._groups[key] = bool(options)
        return self._groups[key]

    def keep(self) -> None:
        """Keep the cells that were planned with the parts of their identities, for the next sweep and for a person."""
        code = {content_hash(found): found for found in self._closures.values()}
        cells = {key: known | {"code": content_hash(self._code(_roots(known)))} for key, known in self._now.items()}
        content = {"code": code, "cells": cells}
        if self._keeps and content != self._content:
            write_json(self.kept, content)

    def _is_as_before(self, known: Mapping[str, Any]) -> bool:
        """Whether what a configuration names is what it was when it was composed."""
        return all(self._stamp(text) == held for text, held in known["files"].items()) and all(
            self._module(text) == module for text, module in known["modules"].items()
        )

    def _stamp(self, text: str) -> str:
        if text not in self._stamps:
            self._stamps[text] = stamp(Path(text))
        return self._stamps[text]

    def _module(self, text: str) -> str | None:
        if text not in self._modules:
            self._modules[text] = CODE.module_of(text)
        return self._modules[text]

    def _code(self, names: tuple[str, ...]) -> dict[str, str]:
        if names not in self._closures:
            self._closures[names] = CODE.closure(names)
        return self._closures[names]


def _check(cell: Cell, values: Mapping[str, Any]) -> None:
    """Refuse a cell with a value that is not what its key takes: each would fail so after a start of its own.

    Raises:
        LabError: it has one; the message names the cell, and all such values.
    """
    try:
        check(values, TRAIN)
    except LabError as error:
        raise LabError(f"{' '.join(cell.overrides)}\n{error}") from error


def _roots(known: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that the run of a cell starts from."""
    return roots(text for text, module in known["modules"].items() if module)


def _read(file: Path) -> Any:
    """What was kept; nothing where there is none, or it is damaged: it is only what can be made again."""
    return recover(file, read_json, "the cells are composed again") or {}


def _checked(content: Any) -> dict[str, dict[str, Any]]:
    """The cells that were kept; none where something is not as it was written."""
    try:
        return {
            str(key): {
                "identity": {part: value["identity"][part] for part in ("configuration", "data", "model")},
                "files": dict(value["files"]),
                "modules": dict(value["modules"]),
                "work": _as_kept(Work(**value["work"])),
            }
            for key, value in content["cells"].items()
        }
    except (KeyError, TypeError, AttributeError):
        return {}


def _work(known: Mapping[str, Any]) -> Work:
    return Work(**{**known["work"], "keys": tuple(known["work"]["keys"])})


def _as_kept(work: Work) -> dict[str, Any]:
    return {**asdict(work), "keys": list(work.keys)}
