"""A study: a question, the grid of runs that answers it, and the tables and figures that it ends as.

One file, `conf/study/<name>.yaml`. Its cells are the product of arms, grid and seeds, each a list of Hydra overrides:

    arms        name to overrides: methods that are compared; an override may itself sweep (loss.beta=0.05,0.1)
    grid        key to values in Hydra's sweep syntax (0,0.1,0.2 or range(0,5)): what is varied in every arm; or a list
                of such grids, of which each is run
    seeds       values of `seed`
    overrides   what all cells share
    search      what `hydra/sweeper=optuna` searches; see `kto_lab.sweeps.search`
    contrasts   the few comparisons that answer the question; see `kto_lab.sweeps.contrasts`
    scales      for a size of machine (`scale=tiny`), what all cells and what single arms have beside that

What is said more particularly holds: an arm's own over what all cells share, also at a scale.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from kto_lab.configuration import refuse_repeated
from kto_lab.errors import LabError
from kto_lab.files import is_name
from kto_lab.sweeps.contrasts import check_contrasts, check_metrics, read_contrasts

ARM = "arm"
SEED = "seed"
SCALE = "scale"
# What a report shows of a study.
SHOWN = ("tables", "figures", "contrasts")


@dataclass(frozen=True)
class Study:
    """What `conf/study/<name>.yaml` says.

    Attributes:
        name: of the file.
        question: in a sentence.
        arms: name to overrides.
        grid: key to values, in Hydra's sweep syntax; or several such grids.
        seeds: values of `seed`.
        overrides: of all cells.
        scales: option of the group `scale` to what suits the study there: `overrides` of all cells; `arms`, name to
            overrides; and `metrics`, name to what tables, figures and contrasts show in its
            place.
        search: what a search in the place of the grid tries, and how it is judged.
        tables: what the report's tables show.
        figures: what its figures show.
        contrasts: the comparisons that answer the question, and what is expected of each.
    """

    name: str
    question: str
    arms: Mapping[str, Sequence[str]]
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    seeds: Sequence[int]
    overrides: Sequence[str] = ()
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    figures: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    contrasts: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        """Refuse a study without a cell, one that compares what it does not run, and one whose name is no folder's."""
        if not is_name(self.name):
            raise LabError(
                f"study.name is {self.name!r}, and its folder is called that. Use letters, digits, '_', '-' and '.'."
            )
        if not self.arms or not self.seeds:
            raise LabError(f"The study {self.name} needs at least one arm and one seed.")
        if repeated := sorted({seed for seed in self.seeds if list(self.seeds).count(seed) > 1}):
            raise LabError(f"The study {self.name} names the seed {repeated[0]} twice; a run is not made twice.")
        for scale, node in self.scales.items():
            where = f"study.scales.{scale} of {self.name}"
            if unknown := sorted(node.keys() - {"overrides", "arms", "metrics"}):
                raise LabError(f"{where} has a key {unknown[0]!r}. Keys are overrides, arms and metrics.")
            if unknown := sorted(node.get("arms", {}).keys() - self.arms.keys()):
                raise LabError(f"{where} has an arm {unknown[0]!r}. Arms are {', '.join(self.arms)}.")
        if contrasts := read_contrasts(self.contrasts, self.name):
            scales = [[], *([f"{SCALE}={scale}"] for scale in self.scales)]
            check_contrasts(contrasts, [cell.choices for given in scales for cell in cells_of(self, given)])
        for at_scale in (None, *self.scales):
            check_metrics(shown_at(vars(self), at_scale), self.name)

    def levels(self, scale: str | None, arm: str) -> "dict[str, dict[str, _Axis]]":
        """What the study sets in the cells of an arm beside grid and seeds, by the place that says so.

        In the order in which one takes the place of another: what all cells share, what they share at this scale, and
        what is the arm's own.
        """
        node = self.scales.get(scale or "", {})
        shared = {
            f"study.overrides of {self.name}": self.overrides,
            f"study.scales.{scale}.overrides of {self.name}": node.get("overrides", ()),
        }
        return {place: _level(words, place) for place, words in shared.items()} | self.levels_of_arm(scale, arm)

    def levels_of_arm(self, scale: str | None, arm: str) -> "dict[str, dict[str, _Axis]]":
        """Of the levels, those of the arm alone: as everywhere, then at this scale."""
        at_scale = self.scales.get(scale or "", {}).get("arms", {}).get(arm, ())
        own = {
            f"study.arms.{arm} of {self.name}": self.arms[arm],
            f"study.scales.{scale}.arms.{arm} of {self.name}": at_scale,
        }
        return {place: _level(words, place) for place, words in own.items()}


def scale_of(study: Study, given: Sequence[str]) -> str | None:
    """The option of the group `scale` that a study is swept at, if any.

    Raises:
        LabError: it is swept itself.
    """
    parsed = _parse(study.overrides, f"study.overrides of {study.name}") + _parse(given, "the command line")
    chosen = [override for override in parsed if key_of(override) == SCALE]
    if any(override.is_sweep_override() for override in chosen):
        raise LabError("scale takes one value: a study is of one size. Sweep each scale by itself.")
    return str(chosen[-1].value()) if chosen else None


def shown_at(study: Mapping[str, Any], scale: str | None) -> dict[str, list[Any]]:
    """What a study's file has of each of `SHOWN`, with the metrics that a scale shows in the place of others."""
    others = ((study.get("scales") or {}).get(scale or "") or {}).get("metrics") or {}
    return {kind: [_renamed(node, others) for node in study.get(kind) or []] for kind in SHOWN}


def _renamed(node: Any, others: Mapping[str, str]) -> Any:
    """A specification whose texts are exchanged where they are the name of a metric."""
    if isinstance(node, Mapping):
        return {key: value if key == "name" else _renamed(value, others) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_renamed(value, others) for value in node]
    return others.get(node, node) if isinstance(node, str) else node


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        choices: what tells it from the others: `arm`, each key that is swept, `seed`.
        overrides: of the configuration `train`, in the order in which they apply.
    """

    choices: dict[str, Any]
    overrides: tuple[str, ...]


def cells_of(study: Study, given: Sequence[str]) -> list[Cell]:
    """The cells of a study, in order: arm by arm, grid point by grid point, seed by seed.

    What is said more particularly holds: the study's `overrides` give way to those of a scale, these to an arm's, and
    these to the arm's at that scale; the command line has the last word.

    Args:
        study: what is to be run.
        given: overrides from the command line; they may sweep, too. One that sets a key of the grid (or `seed`) takes
            its place.

    Raises:
        LabError: an override cannot be parsed, sweeps over an interval rather than values, or sweeps the scale; a place
            sets a key twice; or the study sets a key that its grid varies.
    """
    asked = _level(given, "the command line")
    scale = scale_of(study, given)
    grids = [study.grid] if isinstance(study.grid, Mapping) else study.grid
    where = f"study.grid of {study.name}"
    axes_of_grids = [
        {key: replace(axis, swept=True) for key, axis in _level([f"{k}={v}" for k, v in grid.items()], where).items()}
        for grid in grids
    ]
    seeds = {SEED: _Axis(SEED, [(f"{SEED}={seed}", seed) for seed in study.seeds], swept=True)}
    cells = []
    for (arm, _), grid in itertools.product(study.arms.items(), axes_of_grids):
        axes: dict[str, _Axis] = {}
        for place, level in study.levels(scale, arm).items():
            for key in sorted(level.keys() & (grid.keys() | {SEED})):
                varied = "seeds" if key == SEED else "grid"
                raise LabError(
                    f"study.{varied} of {study.name} varies {key}, which {place} sets. Leave one of them out."
                )
            _put(axes, level)
        for level in (grid, seeds, asked):
            _put(axes, level)
        varied_keys = [key for key, axis in axes.items() if axis.swept]
        for point in itertools.product(*(axis.points for axis in axes.values())):
            values = dict(zip(axes, (value for _, value in point), strict=True))
            choices = {ARM: arm} | {key: values[key] for key in varied_keys if key != SEED} | {SEED: values[SEED]}
            cells.append(Cell(choices, tuple(text for text, _ in point)))
    return cells


def replaced_in_arms(study: Study, given: Sequence[str]) -> dict[str, list[str]]:
    """What the command line sets in the place of what arms set for themselves: its word to the names of the arms."""
    scale = scale_of(study, given)
    own = {arm: set().union(*study.levels_of_arm(scale, arm).values()) for arm in study.arms}
    found = {word: [arm for arm in own if key in own[arm]] for key, word in zip(_level(given, ""), given, strict=True)}
    return {word: arms for word, arms in found.items() if arms}


@dataclass(frozen=True)
class _Axis:
    """One key with the override and the plain value of each of its points."""

    key: str
    points: list[tuple[str, Any]]
    swept: bool


def _level(overrides: Sequence[str], where: str) -> dict[str, _Axis]:
    """What one place of a study, or the command line, sets: key to its axis."""
    refuse_repeated(overrides, where)
    return {axis.key: axis for axis in map(_axis, _parse(overrides, where))}


def _put(axes: dict[str, _Axis], level: Mapping[str, _Axis]) -> None:
    """Let a level take the place of what less particular ones set."""
    for key, axis in level.items():
        axes.pop(key, None)
        axes[key] = axis


def _parse(overrides: Sequence[str], where: str) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise LabError(f"{where}: {str(error).splitlines()[0]}") from error


def key_of(override: Override) -> str:
    """What an override sets: `+key` and `key` are one thing."""
    return str(override.get_key_element()).lstrip("+~")


def _axis(override: Override) -> _Axis:
    element, key = override.get_key_element(), key_of(override)
    if not override.is_sweep_override():
        text = override.get_value_element_as_str() if not override.is_delete() else None
        plain = element if text is None else f"{element}={text}"
        return _Axis(key, [(plain, None if text is None else override.value())], swept=False)
    if not override.is_discrete_sweep():
        raise LabError(f"{override.input_line} sweeps an interval, which a grid cannot. Name values, or use a sweeper.")
    texts = list(override.sweep_string_iterator())
    values = [OverridesParser.create().parse_override(f"{key}={text}").value() for text in texts]
    return _Axis(key, [(f"{element}={text}", value) for text, value in zip(texts, values, strict=True)], swept=True)
