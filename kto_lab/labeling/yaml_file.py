"""Reading a YAML file that a person wrote: a repeated or mistyped key is an error with its place."""

import difflib
import importlib.resources
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kto_lab.errors import LabError


class _Strict(yaml.SafeLoader):
    """Refuses a repeated key, of which YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if repr(key) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
            seen.add(repr(key))
        return super().construct_mapping(node, deep)


def shipped(name: str) -> Path:
    """The path of a file that ships with this package."""
    return Path(str(importlib.resources.files("kto_lab.labeling") / "data" / name))


def read_yaml(path: Path, what: str) -> Mapping[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        path: the file.
        what: what it should be and which key names it, for messages: "rules (labeler.path)".

    Raises:
        LabError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise LabError(f"There is no file {path} of {what}.")
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise LabError(f"{where}: broken YAML: {problem}.") from error
    if not isinstance(found, Mapping):
        raise LabError(f"{path}: a file of {what} is a mapping at its top; this one is not.")
    return found


def named_items(found: Mapping[str, Any], key: str, path: Path) -> list[tuple[Mapping[str, Any], str]]:
    """The items of a list, each a mapping with a name of its own, with their places for messages.

    Raises:
        LabError: there is no such list, or an item has no name or another's.
    """
    items = found.get(key)
    if not isinstance(items, list) or not items:
        raise LabError(f"{path}: '{key}' must be a list with at least one item; it is {items!r}.")
    singular, names, out = key.removesuffix("s"), set[str](), []
    for number, item in enumerate(items, start=1):
        name = item.get("name") if isinstance(item, Mapping) else None
        if not isinstance(name, str) or not name.strip():
            raise LabError(f"{path}: {singular} {number} has no name. Give each a 'name', which its labels will say.")
        if name in names:
            raise LabError(f"{path}: two {key} are named {name!r}. Their labels could not be told apart.")
        names.add(name)
        out.append((item, f"{path}: {singular} {name!r}"))
    return out


def check_fields(item: Mapping[str, Any], place: str, needed: Iterable[str], known: Iterable[str]) -> None:
    """LabError where a mapping lacks a key, or has one that nothing reads."""
    known = list(known)
    for key in item:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise LabError(f"{place}: nothing reads {key!r}.{hint} Known: {', '.join(known)}.")
    if missing := [key for key in needed if key not in item]:
        raise LabError(f"{place}: '{missing[0]}' is missing.")
