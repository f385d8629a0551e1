"""Writes docs/losses.md from the docstrings in kto_lab/losses and the options in conf/, so that it cannot drift.

python scripts/write_loss_docs.py

What a docstring or an option must say, and does not, is an error: a loss that is not documented has no page.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object

import kto_lab.losses
from kto_lab.cli import config_dir
from kto_lab.errors import LabError
from kto_lab.files import write_text
from kto_lab.losses import Feed, MeanOver, Needs
from kto_lab.losses.reference_points import Completions

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "losses.md"

UNITS = {
    Feed.THUMBS: "single thumbs",
    Feed.DESIRABLE: "single thumbs, the desirable alone",
    Feed.PAIRS: "pairs of one prompt",
}
MEANS = {MeanOver.UNITS: "units", MeanOver.TOKENS: "completion tokens"}
FAMILIES = {
    (False, True): "Single thumbs around a reference",
    (False, False): "Likelihood",
    (True, True): "Pairs around a reference",
    (True, False): "Pairs without a reference",
}
ESTIMATED_FROM = {
    Completions.MISMATCHED: "mismatched pairs (x, y') of the step, in a forward pass of their own",
    Completions.MATCHED: "the step's own completions, in a forward pass of their own",
    Completions.SAMPLED: "completions that the policy samples, in a forward pass of their own",
    Completions.NONE: "nothing: no further forward pass",
}

PREAMBLE = """\
# Losses

<!-- Written by scripts/write_loss_docs.py from docstrings and conf/. Do not edit: change those, then `make docs`. -->

Every loss is one option of `kto-lab train`: `loss=kto`, `loss=dpo`. This page is written from the docstrings of
[kto_lab/losses](../kto_lab/losses) and the options in [conf/loss](../conf/loss). [Adding a loss](adding_a_loss.md)
adds one of your own.

- **r** = log pi(y|x) - log pi_ref(y|x), the log-ratio of a completion y of a prompt x, in nats, summed over its tokens.
  The implicit reward is beta r. r_chosen and r_rejected are those of a pair.
- **z0** is the reference point, in nats of log-ratio; it gets no gradient. See [Reference points](#reference-points).
- **lambda_D**, **lambda_U** weigh desirable and undesirable completions; `weight` is the one that goes
  with the thumb. See [Weightings](#weightings).
- **v** is a value function. See [Value functions](#value-functions).
- `log` is the natural logarithm, and sigmoid(u) = 1 / (1 + exp(-u)).

A formula is the loss of one unit: a completion, or a pair. The loss of a step is the mean over its units, or over the
completion tokens of its units. *At the start* is the formula's value before the first step, where the policy is its own
reference, so that r = 0."""


@dataclass(frozen=True)
class Group:
    """A group of options inside a loss: its heading, what it is, and what each docstring of it must say."""

    name: str
    heading: str
    about: str
    must_say: str


GROUPS = (
    Group(
        "value",
        "Value functions",
        "The utility of a gain or a loss. u = beta (r - z0) for a desirable completion and beta (z0 - r) for an "
        "undesirable one, so that u > 0 is a gain and u < 0 a loss.",
        "v(u) =",
    ),
    Group("reference_point", "Reference points", "What gains and losses are measured from.", "z0"),
    Group("weighting", "Weightings", "The weights of desirable and undesirable completions.", "lambda_D"),
)


@dataclass(frozen=True)
class Key:
    """A key of an option: its dotted name, its default as it is written, and its comment."""

    name: str
    default: str
    comment: str


@dataclass(frozen=True)
class Option:
    """An option file.

    Attributes:
        name: what is chosen on the command line.
        about: its first line.
        keys: what can be set.
        groups: the groups of its defaults list: key name is the group's, default is the option's.
        values: the file as YAML reads it.
    """

    name: str
    about: str
    keys: tuple[Key, ...]
    groups: tuple[Key, ...]
    values: dict[str, Any]


@dataclass(frozen=True)
class LossText:
    """A docstring of a loss in its parts.

    Attributes:
        body: what it is, its formula as an indented block, and remarks.
        source: where the loss is from.
        start: its value at policy = reference, or at another point; empty where it has none.
    """

    body: str
    source: str
    start: str


def main() -> None:
    """Write the page."""
    write_text(TARGET, page())


def page() -> str:
    """docs/losses.md as it should be.

    Raises:
        LabError: a docstring lacks a part, a key has no comment, or a loss has no option.
    """
    options = {option.name: option for option in read_options(config_dir() / "loss")}
    functions = {name: get_object(option.values["function"]) for name, option in options.items()}
    check_registry(functions.values())
    families: dict[str, list[str]] = {heading: [] for heading in FAMILIES.values()}
    for name in sorted(functions, key=lambda name: _place(functions[name])):
        needs = _needs(functions[name])
        families[FAMILIES[needs.feed is Feed.PAIRS, needs.reference]].append(name)
    in_order = [name for names in families.values() for name in names]
    parts = [PREAMBLE, "## All losses", _overview(in_order, options, functions)]
    for heading, names in families.items():
        parts += [f"## {heading}", *(loss_section(options[name], functions[name]) for name in names)]
    parts += [group_section(group, [options[name] for name in in_order]) for group in GROUPS]
    return "\n\n".join(parts) + "\n"


def check_registry(functions: Iterable[Callable[..., Any]]) -> None:
    """Refuse a loss of the package that no option names.

    Raises:
        LabError: there is one.
    """
    exported = (getattr(kto_lab.losses, name) for name in kto_lab.losses.__all__)
    declared = {loss for loss in exported if isinstance(getattr(loss, "needs", None), Needs)}
    if missing := sorted(loss.__name__ for loss in declared - set(functions)):
        raise LabError(f"No option in conf/loss names {', '.join(missing)}. Add conf/loss/{missing[0]}.yaml.")


def read_options(folder: Path) -> list[Option]:
    """The options of a folder of conf/, by name."""
    return [read_option(file) for file in sorted(folder.glob("*.yaml"))]


def read_option(file: Path) -> Option:
    """An option file with the comments of its keys.

    Raises:
        LabError: the first line does not say what it is, or a key has no comment.
    """
    text = file.read_text(encoding="utf-8")
    first, *lines = text.splitlines()
    if not first.startswith("# "):
        raise LabError(f"{file}: the first line must be a comment that says what the option is.")
    keys, groups, node = [], [], ""
    for line in lines:
        if group := re.fullmatch(r"  - /(\w+)@(\w+): (\S+)\s+# (.+)", line):
            groups.append(Key(group[2], group[3], group[4]))
        elif opened := re.fullmatch(r"(\w+):", line):
            node = opened[1]
        elif key := re.fullmatch(r"( *)(\w+): (.+?)\s+# (.+)", line):
            keys.append(Key(f"{node}.{key[2]}" if key[1] else key[2], key[3], key[4]))
    keys = [key for key in keys if key.name != "function"]
    values = yaml.safe_load(text)
    if missing := sorted(set(_leaves(values)) - {key.name for key in keys}):
        raise LabError(f"{file}: {', '.join(missing)} needs a comment on its line: what it is, and its unit.")
    if len(groups) != sum(entry != "_self_" for entry in values.get("defaults", [])):
        raise LabError(f"{file}: each line of its defaults list must name a group and have a comment.")
    return Option(file.stem, first[2:], tuple(keys), tuple(groups), values)


def read_loss_text(function: Callable[..., Any]) -> LossText:
    """The parts of a loss's docstring.

    Raises:
        LabError: a part is missing.
    """
    head, _, arguments = (inspect.getdoc(function) or "").partition("\n\nArgs:")
    body, found, source = re.sub(r"Source:\s", "Source: ", head).rpartition("Source: ")
    returns = re.search(r"Returns:\n((?: {4}.*\n?)+)", arguments)
    sentences = _sentences(returns[1]) if returns else [""]
    start = next(
        (i for i, words in enumerate(sentences) if words.startswith(("At policy = reference", "Where "))), None
    )
    for part, there in (
        ("a formula: a block indented by four spaces", re.search(r"\n\n {4}\S", head)),
        ("'Source: ...' at the end of the text above Args", found and "\n\n" not in source),
        ("'Returns:' that begins with the shape, (N,)", sentences[0].startswith("(N,)")),
        ("'At policy = reference: ...' in Returns", start is not None or not _needs(function).reference),
    ):
        if not there:
            raise LabError(
                f"The docstring of {function.__module__}.{function.__name__} lacks {part}. See docs/adding_a_loss.md."
            )
    return LossText(body.rstrip(), source, " ".join(sentences[start:]) if start is not None else "")


def loss_section(option: Option, function: Callable[..., Any]) -> str:
    """What the page says of a loss."""
    text = read_loss_text(function)
    needs = _needs(function)
    wanted = [UNITS[needs.feed], "the reference" if needs.reference else "no reference"]
    wanted += [
        words
        for needed, words in (
            (needs.reference_token_logps, "the reference's log-probs of single tokens"),
            (needs.reference_point, "a reference point z0"),
            (needs.weighting, "lambda_D and lambda_U"),
            (needs.controls, "control texts"),
        )
        if needed
    ]
    return "\n\n".join(
        [
            f"### `{option.name}`",
            *_paragraphs(text.body),
            "\n".join(
                [
                    f"- **Run:** `kto-lab train loss={option.name}`",
                    f"- **Needs:** {', '.join(wanted)}; the step's loss is the mean over its {MEANS[needs.mean_over]}",
                    f"- **At the start:** {_prose(_start(text.start))}",
                    f"- **Source:** {_prose(text.source)}",
                    f"- **Code:** {_code_link(function)}",
                ]
            ),
            _defaults_table(option, "loss"),
        ]
    )


def group_section(group: Group, losses: list[Option]) -> str:
    """What the page says of a group of options inside losses.

    Raises:
        LabError: an option's docstring does not say what each of the group must say.
    """
    users = [loss.name for loss in losses if group.name in {key.name for key in loss.groups}]
    parts = [
        f"## {group.heading}",
        f"{group.about} A group inside {_names(users)}: `{group.name}@loss.{group.name}=...`.",
    ]
    options = [(get_object(option.values["_target_"]), option) for option in read_options(config_dir() / group.name)]
    for target, option in sorted(options, key=lambda pair: _place(pair[0])):
        text = re.split(r"\n\n(?:Args|Attributes|Raises):", inspect.getdoc(target) or "")[0]
        if group.must_say not in text:
            raise LabError(f"The docstring of {option.values['_target_']} must say what {group.must_say!r} is.")
        defaults_of = [loss.name for loss in losses if Key(group.name, option.name, "") in map(_bare, loss.groups)]
        facts = [
            f"- **Run:** `kto-lab train loss={(defaults_of or users)[0]} {group.name}@loss.{group.name}={option.name}`"
        ]
        if defaults_of:
            facts.append(f"- **Default of:** {_names(defaults_of)}")
        if group.name == "reference_point":
            facts.append(f"- **Estimated from:** {ESTIMATED_FROM[target.completions]}")
        facts.append(f"- **Code:** {_code_link(target)}")
        parts += [f"### `{option.name}`", *_paragraphs(text), "\n".join(facts)]
        if option.keys:
            parts.append(_defaults_table(option, f"loss.{group.name}"))
    return "\n\n".join(parts)


def _overview(names: Iterable[str], options: dict[str, Option], functions: dict[str, Callable[..., Any]]) -> str:
    """One line per loss."""
    rows = [["loss", "what it is", "unit", "reference", "z0", "lambdas", "mean over"], ["---"] * 7]
    for name in names:
        needs = _needs(functions[name])
        flags = (needs.reference, needs.reference_point, needs.weighting)
        rows.append(
            [
                f"[`{name}`](#{name})",
                options[name].about,
                needs.feed.value,
                *("yes" if needed else "" for needed in flags),
                needs.mean_over.value,
            ]
        )
    return "\n".join(map(_row, rows))


def _defaults_table(option: Option, prefix: str) -> str:
    """The keys of an option, with the groups of its defaults list first."""
    rows = [
        ["`" + f"{key.name}@{prefix}.{key.name}" + "`", f"[`{key.default}`](#{key.default})", key.comment]
        for key in option.groups
    ]
    rows += [[f"`{prefix}.{key.name}`", f"`{key.default}`", key.comment] for key in option.keys]
    return "\n".join(["| key | default | |", "|---|---|---|", *map(_row, rows)])


def _start(text: str) -> str:
    """The value at the start first, and what it supposes behind it."""
    found = re.fullmatch(r"(?:At policy = reference(?: with|,)? ?|(?=Where))(.*?): (.+)\.", text)
    if not found:
        return "what the likelihood of the first batch gives"
    return f"{found[2]} ({found[1][0].lower()}{found[1][1:]})" if found[1] else found[2]


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a docstring, its indented blocks as code."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            yield f"```text\n{inspect.cleandoc(chr(10) + paragraph)}\n```"
        else:
            yield _prose(paragraph)


def _prose(text: str) -> str:
    """Text of a docstring as Markdown: what is no code is escaped, and arXiv numbers become links."""
    pieces = re.split(r"(`[^`]*`)", _joined(text))
    pieces[::2] = [re.sub(r"([<*])", r"\\\1", piece) for piece in pieces[::2]]
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", "".join(pieces))


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code_link(target: Any) -> str:
    """The file that a function or a class stands in, relative to docs/."""
    file = target.__module__.replace(".", "/") + ".py"
    return f"`{target.__name__}` in [{file}](../{file})"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"[`{name}`](#{name})" for name in names)


def _bare(key: Key) -> Key:
    return Key(key.name, key.default, "")


def _needs(function: Callable[..., Any]) -> Needs:
    needs = function.needs  # type: ignore[attr-defined]
    assert isinstance(needs, Needs)
    return needs


def _place(target: Any) -> tuple[str, int]:
    """Where a function or a class stands, to keep the order of the code."""
    return target.__module__, inspect.getsourcelines(target)[1]


def _leaves(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of an option's keys, without Hydra's and the function's name."""
    for name, value in node.items():
        if name in ("defaults", "function") or name.startswith("_"):
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _joined(text: str) -> str:
    return " ".join(text.split())


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=\.) (?=[A-Z])", _joined(text))


if __name__ == "__main__":
    main()
