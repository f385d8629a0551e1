"""Every value of a configuration against the type of what it is for, before anything is made.

Hydra hands a node's values to its target as they are, and Python asks for no type: the text `no` counts as true there,
and `abc` for a number shows wherever it is first computed with. The types are those of the target's own parameters
(`kto_lab.kinds` has the bounds that many share), so that a target has no second description, and a user's own is
checked by its own annotations. A parameter without an annotation takes anything.
"""

import builtins
import functools
import inspect
import json
import pkgutil
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints, is_typeddict

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError

from kto_lab.errors import LabError
from kto_lab.kinds import Node, ParametersOf, StandsFor

TARGET = "_target_"
MISSING = "???"
_LISTS = (list, set, frozenset, Sequence, MutableSequence, Iterable, Collection)
_MAPPINGS = (dict, Mapping, MutableMapping)
_WORDS = {int: "a whole number", float: "a number", str: "a text", Any: "anything", Node: f"a node with a {TARGET}"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
_SIGNS = {Ge: ("of at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}


def check(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse values that are not of their kind.

    Args:
        values: plain, resolved ones; a key of `kinds` may be missing, or `???`.
        kinds: key to the annotation of its value.

    Raises:
        LabError: every wrong key with its value and with what is allowed, a line each.
    """
    wrong = [
        said for key, kind in kinds.items() if key in values for said in _wrong(key, values[key], kind, stands_for=None)
    ]
    if wrong:
        raise LabError("\n".join(wrong))


def check_fields(made: Any, node: str) -> None:
    """Refuse values of a dataclass that are not of their fields' kinds: for its `__post_init__`.

    Args:
        made: the dataclass.
        node: the node of the configuration that makes it, for messages.

    Raises:
        LabError: as in `check`.
    """
    made_by: Any = type(made)
    kinds = {name: kind for name, kind in parameters(made_by).kinds.items() if is_data(kind)}
    check({f"{node}.{name}": getattr(made, name) for name in kinds}, {f"{node}.{name}": kinds[name] for name in kinds})


def _wrong(key: str, value: Any, kind: Any, *, stands_for: str | None) -> Iterator[str]:
    """What is wrong with one value, and with all that it holds."""
    if get_origin(kind) is Annotated:
        stands_for = next((mark.word for mark in kind.__metadata__ if isinstance(mark, StandsFor)), stands_for)
    if isinstance(value, str) and value in (MISSING, stands_for):
        return
    if isinstance(value, Mapping) and TARGET in value:
        yield from _wrong_in_node(key, value, stands_for)
    elif isinstance(value, Mapping) and (inner := _mapping(kind)) is not None:
        yield from _wrong_in_mapping(key, value, inner, stands_for)
    elif isinstance(value, list) and any(isinstance(one, Mapping) and TARGET in one for one in value):
        for number, one in enumerate(value):
            yield from _wrong(f"{key}[{number}]", one, Any, stands_for=stands_for)
    elif not _fits(value, kind):
        yield f"{key} is {_shown(value)}; it must be {described(kind)}.{_in_quotes(key, value, kind)}"


def _wrong_in_node(key: str, node: Mapping[str, Any], stands_for: str | None) -> Iterator[str]:
    """What is wrong with the keys of a node, by the parameters of its target."""
    target = parameters(imported(node[TARGET], f"{key}.{TARGET}"))
    kinds = dict(target.kinds)
    if target.passed_on_to is not None:
        function = node.get(target.passed_on_to)
        kinds = {**parameters(imported(function, f"{key}.{target.passed_on_to}")).kinds, **kinds}
    for name, value in node.items():
        if not (value is None and target.defaults.get(name, ...) is None):
            yield from _wrong(f"{key}.{name}", value, kinds.get(name, Any), stands_for=stands_for)


def _wrong_in_mapping(key: str, value: Mapping[str, Any], kind: Any, stands_for: str | None) -> Iterator[str]:
    """What is wrong with a plain mapping: a TypedDict names its keys, any other has one kind of value."""
    if not is_typeddict(kind):
        names, *of_value = get_args(kind) or (Any, Any)
        for name, one in value.items():
            if not _fits(name, names):
                yield f"{key} has the key {_shown(name)}; it must be {described(names)}."
            yield from _wrong(f"{key}.{name}", one, of_value[0], stands_for=stands_for)
        return
    kinds = get_type_hints(kind, include_extras=True)
    for name in kinds:
        if name not in value:
            yield f"There is no {key}.{name}; it must be {described(kinds[name])}."
    for name, one in value.items():
        if name in kinds:
            yield from _wrong(f"{key}.{name}", one, kinds[name], stands_for=stands_for)
        else:
            yield f"There is no key '{key}.{name}': nothing would read it. Known: {', '.join(kinds)}."


def imported(name: Any, key: str) -> Any:
    """What a dotted name names; `key` is where it stands.

    Raises:
        LabError: it cannot be imported.
    """
    try:
        return pkgutil.resolve_name(str(name))
    except Exception as error:  # whatever a module raises where it is imported
        raise LabError(
            f"{key} is {name!r}, which cannot be imported: {error}. Install its package, or name another."
        ) from error


@dataclass(frozen=True)
class Parameters:
    """What a function or a class takes.

    Attributes:
        kinds: parameter to its annotation; `Any` for one that has none.
        defaults: parameter to its default, of those that have one.
        passed_on_to: the parameter that names the function which takes all others; None where there is none.
    """

    kinds: Mapping[str, Any]
    defaults: Mapping[str, Any]
    passed_on_to: str | None = None


@functools.cache
def parameters(made: Any) -> Parameters:
    """The parameters of a function, or of a class's constructor."""
    try:
        named = inspect.signature(made).parameters
    except (ValueError, TypeError):
        # Of a function written in C nothing is known.
        return Parameters({}, {})
    hints = _hints(made.__init__ if inspect.isclass(made) else made)
    kinds: dict[str, Any] = {}
    passed_on_to = None
    for name, parameter in named.items():
        kind = hints.get(name, Any)
        if parameter.kind is parameter.VAR_KEYWORD:
            if get_origin(kind) is Unpack:
                kinds |= get_type_hints(get_args(kind)[0], include_extras=True)
            elif get_origin(kind) is Annotated:
                passed_on_to = next((one.name for one in kind.__metadata__ if isinstance(one, ParametersOf)), None)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            kinds[name] = kind
    defaults = {name: one.default for name, one in named.items() if one.default is not one.empty}
    return Parameters(kinds, defaults, passed_on_to)


class _Names(dict[str, Any]):
    """The names that an annotation can use; another, imported for type checking alone, is of typing or a class."""

    def __missing__(self, name: str) -> Any:
        return getattr(typing, name, Node)


def _hints(function: Any) -> dict[str, Any]:
    """The annotations of a function; none where they cannot be read."""
    own = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return get_type_hints(function, own, _Names(vars(builtins) | own), include_extras=True)
    except Exception:  # whatever an annotation of other people's code may raise
        return {}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a kind, as JSON has it: a list may be a tuple, and no text is a number."""
    try:
        text = json.dumps(value, default=str)
        _adapter(_plain(kind)).validate_json(text)
    except (ValidationError, ValueError, TypeError):
        return False
    return True


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    settings = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    return TypeAdapter(kind, config=settings)


def _plain(kind: Any) -> Any:
    """An annotation with only what a configuration can hold: anything else is made by a node of its own."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in (Any, object):
        return Any
    if kind in (bool, int, float, str, None, NoneType) or origin is Literal:
        return kind
    if inspect.isclass(kind) and issubclass(kind, Path):
        return str
    if origin is Annotated:
        bounds = [mark for mark in kind.__metadata__ if not isinstance(mark, StandsFor)]
        return Annotated[(_plain(arguments[0]), *bounds)] if bounds else _plain(arguments[0])
    if origin in (Union, UnionType):
        return Union[tuple(map(_plain, arguments))]  # noqa: UP007 (a tuple of kinds)
    if kind in _LISTS or origin in _LISTS:
        one: Any = _plain(arguments[0]) if arguments else Any
        return list[one]
    several: Any = tuple(one if one is ... else _plain(one) for one in arguments)
    if kind is tuple or origin is tuple:
        return tuple[several] if arguments else list[Any]
    if kind in _MAPPINGS or origin in _MAPPINGS:
        return GenericAlias(dict, several or (Any, Any))
    return kind if is_typeddict(kind) else Node


def is_data(kind: Any) -> bool:
    """Whether a value of a kind can be a plain one throughout."""
    kind = _plain(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Annotated, Literal):
        return origin is Literal or is_data(arguments[0])
    return kind is not Node and all(is_data(one) for one in arguments if one is not ...)


def _mapping(kind: Any) -> Any:
    """The mapping that a value of this kind may be; None where it may be none."""
    if get_origin(kind) in (Annotated, Union, UnionType):
        return next((found for one in get_args(kind) if (found := _mapping(one)) is not None), None)
    if kind is Any:
        return dict
    return kind if is_typeddict(kind) or kind in _MAPPINGS or get_origin(kind) in _MAPPINGS else None


def described(kind: Any) -> str:
    """What a value may be, in words: "a whole number of at least 1 or null"."""
    words = list(dict.fromkeys(_alternatives(_plain(kind))))
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _alternatives(kind: Any) -> list[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is bool:
        return ["true", "false"]
    if kind in (None, NoneType):
        return ["null"]
    if origin is Literal:
        return list(map(_shown, arguments))
    if origin in (Union, UnionType):
        # A number that may also be computed with as something made, as torch has it.
        known = [one for one in arguments if one is not Node or {*arguments} == {Node, NoneType}]
        return [said for one in known for said in _alternatives(one)]
    if origin is Annotated:
        return [described(arguments[0]) + _bounds(kind.__metadata__)]
    if origin is list:
        one = arguments[0]
        return ["a list" if one is Any else f"a list of {_PLURALS.get(one) or 'values that are ' + described(one)}"]
    if origin is tuple:
        return [f"a list of {', '.join(described(one) for one in arguments if one is not ...)}"]
    if origin is dict or is_typeddict(kind):
        return ["a mapping"]
    return [_WORDS.get(kind, str(kind))]


def _bounds(marks: Sequence[Any]) -> str:
    """Bounds in words, each after a space."""
    said = [f"{_SIGNS[type(one)][0]} {getattr(one, _SIGNS[type(one)][1])}" for one in marks if type(one) in _SIGNS]
    if any(isinstance(one, MinLen) for one in marks):
        said.append("that is not empty")
    return f" {' and '.join(said)}" if said else ""


def _shown(value: Any) -> str:
    """A value as a person would write it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _in_quotes(key: str, value: Any, kind: Any) -> str:
    """How to write a text that looks like a number."""
    if isinstance(value, bool | int | float) and _fits(str(value), kind):
        return f""" As a text it is in quotes: {key}="'{value}'"."""
    return ""
