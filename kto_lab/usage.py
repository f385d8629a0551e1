"""What `--help` lists: commands, and the configuration groups that one command uses.

Hydra's public interface has no way to choose what its `--help` lists, so its own methods are replaced here.
"""

import copy
import difflib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra._internal.config_repository import IConfigRepository
    from hydra._internal.hydra import Hydra
    from hydra.core.default_element import InputDefault
    from hydra.core.object_type import ObjectType


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


def list_groups_of(config: str, *, without: Collection[str]) -> None:
    """Have Hydra's `--help` list the groups that a command's configuration uses, and no others.

    By itself it lists all folders of conf/. Nested groups are named by the word that chooses them: `value@loss.value`.

    Args:
        config: the command's configuration.
        without: groups of it that the command has no use for.
    """
    from hydra._internal.hydra import Hydra

    def list_groups(hydra: "Hydra", parent: str = "") -> list[str]:
        loader = hydra.config_loader
        return [key for key in _groups(loader.repository, config) if key not in without]  # type: ignore[attr-defined]

    Hydra.list_all_config_groups = list_groups  # type: ignore[assignment, method-assign]


def list_options_at_once() -> None:
    """Have Hydra list options from its sources as they are: by itself it copies all sources for each, for seconds."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.object_type import ObjectType

    def options(
        loader: ConfigLoaderImpl,
        group_name: str,
        results_filter: "ObjectType | None" = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        return loader.repository.get_group_options(group_name.partition("@")[0], results_filter)

    ConfigLoaderImpl.get_group_options = options  # type: ignore[assignment, method-assign]


def complete_groups_of(config: str, *, without: Collection[str]) -> None:
    """Have Hydra's completion know the groups that a command's configuration uses, the nested ones too.

    Args:
        config: the command's configuration.
        without: groups of it that the command has no use for.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.object_type import ObjectType

    list_options_at_once()
    listed = ConfigLoaderImpl.get_group_options

    def options(loader: ConfigLoaderImpl, group_name: str, results_filter: "ObjectType", **more: Any) -> list[str]:
        if group_name == "" and results_filter is ObjectType.GROUP:
            return [key for key in _groups(loader.repository, config) if key not in without]
        return listed(loader, group_name, results_filter)

    ConfigLoaderImpl.get_group_options = options  # type: ignore[assignment, method-assign]


def _groups(repository: "IConfigRepository", config: str) -> list[str]:
    """The groups in a configuration's defaults list and in those of their options, each by the word that chooses it."""
    from hydra.core.default_element import ConfigDefault, GroupDefault
    from hydra.core.object_type import ObjectType

    found: dict[str, None] = {}

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
            found[child.get_override_key()] = None
            for option in repository.get_group_options(child.get_group_path(), ObjectType.CONFIG):
                chosen = copy.copy(child)
                chosen.value = option
                walk(chosen, (*within, path))

    root = ConfigDefault(path=config)
    root.update_parent("", "")
    walk(root, ())
    return list(found)
