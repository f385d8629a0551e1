"""What `--help` lists: the groups that a command's configuration uses, and the options of a group.

Hydra's own `--help` lists all folders of conf/ and the whole configuration, so its place is taken here.
"""

import copy
import difflib
import itertools
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_lab.commands import Command
from kto_lab.configuration import config_dir
from kto_lab.errors import LabError

if TYPE_CHECKING:
    from hydra._internal.config_repository import IConfigRepository
    from hydra.core.default_element import InputDefault
    from hydra.core.object_type import ObjectType

# What each group decides.
ABOUT = {
    "adapter": "which weights are trained: all, or low-rank adapters",
    "answers": "the answers that get thumbs",
    "corruption": "what is changed in the training thumbs",
    "evaluation": "what is measured before and after, and on how many prompts",
    "export": "the tool whose export is read, and where the file is",
    "feedback": "the thumbs: where they come from, and how they are read",
    "judge": "what scores answers where nothing checks them",
    "labeler": "what gives the thumbs: rules, principles or a model",
    "logger": "where metrics go beside the run folder",
    "loss": "what is minimised",
    "model": "the language model: its weights and tokenizer",
    "optimizer": "how a gradient becomes a step",
    "prompts": "what the model is asked, and how answers are checked",
    "reference": "the policy that the trained one is compared with",
    "reference_point": "the reference point z0 that gains and losses are measured from",
    "reference_store": "where the reference's log-probabilities are kept",
    "scale": "all sizes at once, for a size of machine",
    "schedule": "how the learning rate goes over the steps",
    "study": "the runs of an experiment, and its tables and figures",
    "trainer": "devices, processes and number format",
    "value": "the value function: how gains and losses count",
    "weighting": "how much the two classes of thumbs weigh",
}


def closest(words: Sequence[str], commands: Collection[str]) -> str | None:
    """The command that was probably meant by the first words of a command line, if any comes near.

    Args:
        words: what was typed, one word at least.
        commands: such as "train" and "feedback audit".
    """
    first, *more = words
    under = {name.split()[1]: name for name in commands if name.startswith(f"{first} ")}
    if under:
        near = difflib.get_close_matches(more[0], under, n=1) if more else []
        return under[near[0]] if near else None
    # A word that opens several commands, or the last one of a command: `inspect` for `feedback inspect`.
    known = {name.split()[0]: name.split()[0] for name in commands} | {name.split()[-1]: name for name in commands}
    near = difflib.get_close_matches(first, known, n=1)
    if not near:
        return None
    meant = known[near[0]]
    return meant if meant in commands else closest([meant, *more], commands) or meant


def help_of(name: str, command: Command, words: Sequence[str]) -> str:
    """What `--help` says: of a command its groups, and of a group its options.

    Args:
        name: of the command.
        command: the command.
        words: its command line, in which a word alone names a group; `--config-dir` adds options of one's own.

    Raises:
        LabError: the command has no such group.
    """
    folders = [config_dir(), *map(Path, config_dirs(words))]
    repository = _repository(folders)
    groups = {
        key: default for key, default in _groups(repository, command.config).items() if key not in command.without
    }
    given = [word for word in words if not word.startswith("-") and "=" not in word and word not in config_dirs(words)]
    if not given:
        return _of_command(name, command, groups)
    return "\n\n".join(_of_group(key, name, groups, repository, folders) for key in given)


def config_dirs(words: Sequence[str]) -> Sequence[str]:
    """The folders that a command line adds with `--config-dir`."""
    return [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("--config-dir", "-cd")]


def _of_command(name: str, command: Command, groups: Mapping[str, str | None]) -> str:
    rows = [(key, default or "-", ABOUT.get(key.partition("@")[0], "")) for key, default in groups.items()]
    names, defaults = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    listed = {key: f"    {key:<{names}}  {default:<{defaults}}  {about}".rstrip() for key, default, about in rows}
    nested = [line for key, line in listed.items() if "@" in key]
    width = max(map(len, command.flags), default=0)
    lines = [f"    {flag:<{width}}  {about}" for flag, about in command.flags.items()]
    example = next(iter(command.groups), next(iter(groups), "GROUP"))
    return "\n".join(
        [
            f"kto-lab {name}: {command.about}",
            "",
            *([*lines, ""] if lines else []),
            "Groups, the option that each has, and what it decides:",
            "",
            *(line for key, line in listed.items() if "@" not in key),
            *(["", "Groups within a group's option:", "", *nested] if nested else []),
            "",
            f"kto-lab {name} --help {example} lists the options of a group; choose one with {example}=OPTION.",
            f"kto-lab {name} --cfg job prints every key; set one by its path, as in {example}.KEY=VALUE.",
        ]
    )


def _of_group(
    key: str, name: str, groups: Mapping[str, str | None], repository: "IConfigRepository", folders: Sequence[Path]
) -> str:
    from hydra.core.object_type import ObjectType

    if key not in groups:
        near = difflib.get_close_matches(key, groups, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise LabError(f"kto-lab {name} has no group {key!r}.{hint} kto-lab {name} --help lists its groups.")
    group = key.partition("@")[0]
    options = repository.get_group_options(group, ObjectType.CONFIG)
    width = max(map(len, options))
    lines = [f"{key}: {ABOUT.get(group, '')}".rstrip(": "), ""]
    for option in options:
        about = comment(option, group, folders) + (" (the default)" if option == groups[key] else "")
        indent = " " * (6 + width)
        lines += textwrap.wrap(f"    {option:<{width}}  {about}".rstrip(), 120, subsequent_indent=indent)
    return "\n".join(
        [*lines, "", f"Choose one with {key}=OPTION; kto-lab {name} {key}=OPTION --cfg job shows its keys."]
    )


def comment(option: str, group: str, folders: Sequence[Path]) -> str:
    """The first sentence of an option's file; "" where it has no comment, or is Hydra's own.

    Args:
        option: its name.
        group: the folder that it is in.
        folders: of configuration, of which the first that has the option counts.
    """
    file = next((file for folder in folders if (file := folder / group / f"{option}.yaml").is_file()), None)
    lines = file.read_text(encoding="utf-8").splitlines() if file else []
    first = [line for line in lines if not line.startswith("# @package")]
    said = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), first))
    return re.split(r"(?<=[.:]) (?=[A-Z])|(?<=\.)$", said, maxsplit=1)[0].rstrip(".:")


def _repository(folders: Sequence[Path]) -> "IConfigRepository":
    """What Hydra finds in folders of configuration."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    first, *more = folders
    path = create_config_search_path(str(first))
    for folder in more:
        if not folder.is_dir():
            raise LabError(f"--config-dir {folder} is no folder.")
        path.append("command-line", folder.absolute().as_uri())
    return ConfigLoaderImpl(path).repository


def complete_groups_of(config: str, *, without: Collection[str]) -> None:
    """Have Hydra's completion know the groups that a command's configuration uses, the nested ones too.

    Args:
        config: the command's configuration.
        without: groups of it that the command has no use for.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.object_type import ObjectType

    def options(loader: ConfigLoaderImpl, group_name: str, results_filter: "ObjectType", **more: Any) -> list[str]:
        if group_name == "" and results_filter is ObjectType.GROUP:
            return [key for key in _groups(loader.repository, config) if key not in without]
        # From its sources as they are: Hydra's own method copies all of them for each group, for seconds.
        return loader.repository.get_group_options(group_name.partition("@")[0], results_filter)

    ConfigLoaderImpl.get_group_options = options  # type: ignore[assignment, method-assign]


def _groups(repository: "IConfigRepository", config: str) -> dict[str, str | None]:
    """The groups in a configuration's defaults list and in those of their options, each with the option that it has.

    Nested groups are named by the word that chooses them: `value@loss.value`.
    """
    from hydra.core.default_element import ConfigDefault, GroupDefault
    from hydra.core.object_type import ObjectType

    found: dict[str, str | None] = {}

    def walk(node: "InputDefault", within: tuple[str, ...]) -> None:
        path = node.get_config_path()
        loaded = repository.load_config(path)
        # An option that nests its own group, as a corruption made of several, would go on for ever.
        if loaded is None or path in within:
            return
        for child in copy.deepcopy(loaded.defaults_list or []):
            # What is chosen again was named where it is first chosen.
            if child.is_self() or child.is_override():
                continue
            child.update_parent(node.get_group_path(), node.get_final_package())
            if not isinstance(child, GroupDefault):
                walk(child, (*within, path))
                continue
            found.setdefault(child.get_override_key(), None if child.value is None else str(child.value))
            options = repository.get_group_options(child.get_group_path(), ObjectType.CONFIG)
            # The default one first: what a nested group has is what it has there.
            for option in sorted(options, key=lambda option: option != child.value):
                chosen = copy.copy(child)
                chosen.value = option
                walk(chosen, (*within, path))

    root = ConfigDefault(path=config)
    root.update_parent("", "")
    walk(root, ())
    return found
