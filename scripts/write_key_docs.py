"""Writes docs/keys.md, an index of every key, from the comments in conf/ and the types of what reads them.

python scripts/write_key_docs.py
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints, is_typeddict

import yaml

from kto_lab.commands import COMMANDS
from kto_lab.configuration import config_dir
from kto_lab.errors import LabError
from kto_lab.files import write_text
from kto_lab.keys import OF_COMMAND
from kto_lab.values import TARGET as NAME_OF_TARGET
from kto_lab.values import described, imported, is_data, parameters

TARGET = Path(__file__).resolve().parent.parent / "docs" / "keys.md"

# Where the keys of a group stand, if not under its name.
PLACES = {
    "value": "loss.value",
    "weighting": "loss.weighting",
    "reference_point": "loss.reference_point",
    "judge": "evaluation.judge",
    "hydra/launcher": "hydra.launcher",
}
_GLOBAL = "# @package _global_"
# Hydra's own.
_NOT_SET = ("defaults", "hydra", "_target_", "_partial_", "_convert_", "_recursive_")

PREAMBLE = """\
# Every key

<!-- Written by scripts/write_key_docs.py from conf/ and types. Do not edit: `make docs`. -->

What can be set on the command line as `key=value`: first the keys of each command, then those of each group's options
(`loss=kto` chooses the option `kto` of the group `loss`). The third column says what a value may be, where it is known.
`kto-lab sweep` has the keys of `kto-lab train`; those of a study are in [Studies](studies.md). `???` stands for a key
that has to be set.
"""


@dataclass(frozen=True)
class Key:
    """A key of a file in conf/.

    Attributes:
        name: with dots, as on the command line.
        default: as the file has it; None for a node whose keys follow.
        comment: what the file says about it.
        kind: what its value may be, in words; empty where nothing says so.
    """

    name: str
    default: str | None
    comment: str
    kind: str


def main() -> None:
    """Write the page."""
    write_text(TARGET, page())


def page() -> str:
    """docs/keys.md as it should be.

    Raises:
        LabError: a key has no comment.
    """
    conf = config_dir()
    parts = [PREAMBLE, "## Commands\n"]
    for file in sorted(conf.glob("*.yaml")):
        names = [f"`kto-lab {name}`" for name, command in COMMANDS.items() if command.config == file.stem]
        parts += [
            f"### {', '.join(names)}\n",
            _first_line(file),
            _table(list(keys_of(file, "", OF_COMMAND[file.stem]))),
        ]
    parts.append("## Groups\n")
    folders = sorted({file.parent for file in conf.rglob("*.yaml")} - {conf})
    for folder in folders:
        group = folder.relative_to(conf).as_posix()
        parts.append(f"### `{group}=`\n")
        for file in sorted(folder.glob("*.yaml")):
            parts += [f"**`{group}={file.stem}`** {_first_line(file)}"]
            if group != "study":
                parts.append(_table(keys_of(file, PLACES.get(group, group), {})))
    return "\n".join(part for part in parts if part)


def keys_of(file: Path, place: str, known: Mapping[str, Any]) -> list[Key]:
    """The keys of a file in conf/, in its order.

    An option that builds on another of its group says only what it sets anew: the rest is said by that one.

    Args:
        file: the file.
        place: where its keys stand.
        known: what the values of its first keys may be; of nodes that are made, their targets say so.

    Raises:
        LabError: nothing explains a key.
    """
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        return []
    bases = [base for one in yaml.safe_load(text).get("defaults", []) if (base := _base(file, one)) is not None]
    if text.startswith(_GLOBAL):
        # It sets keys of a whole run.
        place, bases = "", [config_dir() / "train.yaml"]
    said = {key.name: key for base in bases for key in keys_of(base, place, {})}
    found = []
    for key in _walk(root, [place] if place else [], known, text.splitlines()):
        before = said.get(key.name)
        made = replace(key, comment=key.comment or before.comment, kind=key.kind or before.kind) if before else key
        if not made.comment and made.default is not None and not text.startswith(_GLOBAL):
            raise LabError(f"{file}: {made.name} needs a comment on its line: what it is, and its unit.")
        # A node that nothing is said of is named by its keys.
        if made.comment or made.default is not None:
            found.append(made)
    return found


def _base(file: Path, entry: Any) -> Path | None:
    """The option of the same group that a line of a defaults list names."""
    if not isinstance(entry, str) or entry == "_self_":
        return None
    base = file.with_name(f"{entry}.yaml")
    return base if base.is_file() else None


def _walk(
    node: yaml.MappingNode, within: Sequence[str], known: Mapping[str, Any], lines: Sequence[str]
) -> Iterator[Key]:
    kinds = {**known, **_kinds_of(node)}
    for name, value in node.value:
        if name.value in _NOT_SET:
            continue
        kind = kinds.get(name.value, Any)
        nested = isinstance(value, yaml.MappingNode) and bool(value.value) and not value.flow_style
        yield Key(
            ".".join([*within, name.value]),
            None if nested else _default(lines, value),
            _comment(lines, name.end_mark if nested else value.end_mark, name.start_mark.line),
            described(kind) if kind is not Any and is_data(kind) and not nested else "",
        )
        if nested:
            inner = get_type_hints(kind, include_extras=True) if is_typeddict(kind) else {}
            yield from _walk(value, [*within, name.value], inner, lines)


def _kinds_of(node: yaml.MappingNode) -> Mapping[str, Any]:
    """The types of what a node makes; none where it makes nothing, or nothing that is installed."""
    target = next((value.value for key, value in node.value if key.value == NAME_OF_TARGET), None)
    if target is None or target.startswith("hydra_plugins."):
        return {}
    return parameters(imported(target, NAME_OF_TARGET)).kinds


def _default(lines: Sequence[str], value: yaml.Node) -> str:
    start, end = value.start_mark, value.end_mark
    if start.line == end.line:
        return lines[start.line][start.column : end.column] or "null"
    inner = [lines[start.line][start.column :], *lines[start.line + 1 : end.line], lines[end.line][: end.column]]
    return " ".join(" ".join(re.sub(r"\s#\s.*", "", line) for line in inner).split())


def _comment(lines: Sequence[str], end: yaml.Mark, first: int) -> str:
    """What stands behind a key, and goes on below; or what stands above it."""
    rest = lines[end.line][end.column :] if end.line < len(lines) else ""
    found = re.search(r"(?:^|\s)#\s(.*)$", rest)
    if found is None and first < len(lines):
        found = re.search(r"\s#\s(.*)$", lines[first])
    if found is not None:
        words = [found[1]]
        for line in lines[max(end.line, first) + 1 :]:
            # A line of its own below is behind the column of keys.
            below = re.match(r"^\s{8,}#\s(.*)$", line)
            if below is None:
                break
            words.append(below[1])
        return " ".join(words)
    above: list[str] = []
    for line in reversed(lines[1:first]):
        if not line.strip().startswith("# "):
            break
        above.insert(0, line.strip().removeprefix("# "))
    return " ".join(above)


def _first_line(file: Path) -> str:
    """What a file is, in its own words."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    return f"{_escaped(lines[0].removeprefix('# '))}\n"


def _table(keys: Sequence[Key]) -> str:
    if not keys:
        return ""
    rows = ["| key | default | may be | what it is |", "|---|---|---|---|"]
    for key in keys:
        default = "" if key.default is None else f"`{key.default}`"
        cells = [f"`{key.name}`", default, _escaped(key.kind), _escaped(key.comment)]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*rows, ""])


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", r"\*").replace("](", "] (")


if __name__ == "__main__":
    main()
