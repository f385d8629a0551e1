"""What differs between configurations, named as a person sets it: `loss=dpo` and `loss.beta=0.3`.

A record holds what a configuration came to, such as `loss.function: kto_lab.losses.dpo`. The options of each group in
conf/ say which choice that is: the one that makes the same code, and of these the one whose other values are most
alike. What an option has of itself is then said by its name, and only what a person set beside it is listed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from kto_lab.reports.frame import plain

PREFIX = "config."
# Differences between configurations that say where a run is, not what it is; the seed is a column of its own.
NOT_COMPARED = ("run_dir", "runs_dir", "seed")
GLOBAL = "@package _global_"
# What names code: an option is another one where it names other code.
CODE = "kto_lab."


@dataclass(frozen=True)
class Group:
    """A group of options.

    Attributes:
        place: where its options stand in a configuration: "loss.value".
        word: what chooses one on the command line: "value@loss.value".
        folder: with a file for each option.
    """

    place: str
    word: str
    folder: Path

    @cached_property
    def options(self) -> dict[str, dict[str, Any]]:
        """The values of each option by dotted key, as its file has them; those that are to be set are left out."""
        return {file.stem: _leaves(file) for file in sorted(self.folder.glob("*.yaml")) if not _is_global(file)}

    @cached_property
    def defaults(self) -> dict[str, dict[str, str]]:
        """The options of other groups that each option brings with it, by their place."""
        return {
            file.stem: {f"{self.place}.{package}": option for _, package, option in _defaults(file)}
            for file in sorted(self.folder.glob("*.yaml"))
        }

    def option(self, node: Mapping[str, Any]) -> str | None:
        """The option that a node is of, by its values of dotted keys; None where there is none."""
        fitting = {
            name: sum(_is(value, node.get(key)) for key, value in leaves.items())
            - sum(key not in leaves for key in node)
            for name, leaves in self.options.items()
            if _code(leaves) == _code({key: node.get(key) for key in leaves}) and leaves.keys() & node.keys()
        }
        return max(fitting, key=lambda name: fitting[name], default=None)


# The groups of a configuration, those within others after them.
Options = Sequence[Group]


@lru_cache(maxsize=4)
def read_options(conf: Path) -> Options:
    """The groups of conf/, and where each stands: by the defaults lists of its files."""
    places: dict[str, str] = {}
    for file in sorted(conf.rglob("*.yaml")):
        inside = [] if file.parent == conf else [file.parent.relative_to(conf).as_posix().replace("/", ".")]
        for name, package, _ in _defaults(file):
            if (conf / name).is_dir():
                places.setdefault(".".join([*inside, package]), name)
    return [
        Group(place, name if place == name.replace("/", ".") else f"{name}@{place}", conf / name)
        for place, name in sorted(places.items(), key=lambda one: one[0].count("."))
    ]


def differing(frame: pd.DataFrame, options: Options) -> dict[str, list[Any]]:
    """Settings that are not the same in all rows: name to the value in each row, None where a row has none.

    An option that another one brings with it, as `loss=kto` its value function, is not listed where no row has another.

    Args:
        frame: from `kto_lab.reports.load`.
        options: from `read_options`.
    """
    columns = {
        str(name).removeprefix(PREFIX): list(map(plain, frame[name].tolist()))
        for name in frame.columns
        if str(name).startswith(PREFIX)
    }
    columns = {key: values for key, values in columns.items() if key not in NOT_COMPARED}
    varied = {key for key, values in columns.items() if _differ(values)}
    found: dict[str, list[Any]] = {}
    # Place to what each row is expected to have there, by the option of a group that stands above it.
    expected: dict[str, list[str | None]] = {}
    for group in options:
        inner = [f"{other.place}." for other in options if other.place.startswith(f"{group.place}.")]
        own = [key for key in columns if key.startswith(f"{group.place}.") and not key.startswith(tuple(inner))]
        if not varied.intersection(own):
            continue
        names, told = _named(group, {key: columns[key] for key in own})
        for place in {place for brought in group.defaults.values() for place in brought}:
            expected[place] = [group.defaults[name].get(place) if name else None for name in names]
        if names != expected.get(group.place):
            found[group.word] = names
        varied -= {key for key in own if key not in told}
    found |= {key: columns[key] for key in columns if key in varied}
    return {key: values for key, values in found.items() if _differ(values)}


def _named(group: Group, columns: Mapping[str, Sequence[Any]]) -> tuple[list[str | None], set[str]]:
    """The option of each row, and the keys that some row has otherwise than its option."""
    names: list[str | None] = []
    told: set[str] = set()
    # Most rows are alike.
    known: dict[tuple[Any, ...], str | None] = {}
    for values in zip(*columns.values(), strict=True):
        if values not in known:
            node = {
                key[len(group.place) + 1 :]: value
                for key, value in zip(columns, values, strict=True)
                if value is not None
            }
            name = known[values] = group.option(node) if node else None
            leaves = group.options[name] if name else {}
            told |= {f"{group.place}.{key}" for key, value in node.items() if not _is(leaves.get(key), value)}
        names.append(known[values])
    return names, told


def _differ(values: Sequence[Any]) -> bool:
    # True and 1 are equal, and are not the same setting.
    return len({(type(value), value) for value in values}) > 1


def _is(leaf: Any, value: Any) -> bool:
    """Whether a value is the option's own; one that follows another key always is."""
    return leaf == value or (isinstance(leaf, str) and "${" in leaf)


def _code(leaves: Mapping[str, Any]) -> dict[str, str]:
    """The leaves that name code."""
    return {key: value for key, value in leaves.items() if isinstance(value, str) and value.startswith(CODE)}


def _defaults(file: Path) -> list[tuple[str, str, str]]:
    """A file's defaults list: group, place relative to the file's own, and option of each entry."""
    text = file.read_text(encoding="utf-8")
    if "defaults:" not in text:
        return []
    content: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    found = []
    for entry in content.get("defaults", []):
        for word, option in entry.items() if isinstance(entry, dict) else []:
            name, _, package = str(word).lstrip("/").partition("@")
            if not name.startswith("override "):
                found.append((name, package or name.replace("/", "."), str(option)))
    return found


def _is_global(file: Path) -> bool:
    """Whether an option sets keys of other groups: no node of a configuration is its own."""
    return GLOBAL in file.read_text(encoding="utf-8")


def _leaves(file: Path) -> dict[str, Any]:
    """The values of an option by dotted key, its defaults list and what is to be set apart."""
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(content, dict)
    content.pop("defaults", None)
    return {key: value for key, value in _flat(content, "") if value not in (None, "???")}


def _flat(node: Mapping[Any, Any], place: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", plain(value)
