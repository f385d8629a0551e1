"""Annotations of parameters that a configuration sets: what its value may be, beyond a Python type.

`kto_lab.values` checks every value of a configuration against the annotation of the parameter that it is for. Bounds
stand there, beside the parameter; these are the ones that many parameters share.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt, MinLen


class _Open(type):
    """Makes a class stand for whatever a name that is imported for type checking alone may be followed by."""

    def __getattr__(cls, name: str) -> "type[Node]":
        if name.startswith("_"):
            raise AttributeError(name)
        return Node

    def __getitem__(cls, argument: Any) -> "type[Node]":
        return Node


class Node(metaclass=_Open):
    """A node of the configuration with a `_target_`: something that is made, rather than a plain value."""


@dataclass(frozen=True)
class StandsFor:
    """Marks a node whose keys may have, instead of a value, a word that is replaced by one later.

    Attributes:
        word: that word.
    """

    word: str


@dataclass(frozen=True)
class ParametersOf:
    """Marks `**keywords` that are passed on to the function which another parameter names.

    Attributes:
        name: of that parameter.
    """

    name: str


Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
Text: TypeAlias = Annotated[str, MinLen(1)]
# What numpy and torch take alike.
Seed: TypeAlias = Annotated[int, Ge(0), Lt(2**32)]
Count: TypeAlias = Annotated[int, Ge(0)]
AtLeastOne: TypeAlias = Annotated[int, Ge(1)]
Positive: TypeAlias = Annotated[float, Gt(0)]
NotNegative: TypeAlias = Annotated[float, Ge(0)]
Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
ShareBelowOne: TypeAlias = Annotated[float, Ge(0), Lt(1)]
