"""Which top-level statements count because they do something when their module is imported."""

from pathlib import Path

import pytest

from kto_lab.runs.code import Code

USED = """
import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

MADE = []

def register(thing):
    MADE.append(thing)
    return thing

def declares(needs):
    def attach(function):
        function.needs = needs
        return function
    return attach

def registers(needs):
    def attach(function):
        function.needs = MADE
        MADE.append(function)
        return function
    return attach

class Watched:
    def __init_subclass__(cls):
        MADE.append(cls)

@dataclass(frozen=True)
class Plain:
    rate: int = 1

@dataclass(frozen=True)
class Refusing:
    rate: int = 1
    def __post_init__(self):
        'Refuse.'
        if self.rate < 0:
            raise ValueError("negative")

@dataclass(frozen=True)
class Asking:
    rate: int = 1
    def __post_init__(self):
        if register(self):
            raise ValueError("asked")

@dataclass(frozen=True)
class Checked:
    rate: int = 1
    def __post_init__(self):
        MADE.append(self)

def f(x):
    return x
"""


def counts(folder: Path, statement: str) -> bool:
    """Whether a statement counts although nothing uses what it binds."""
    code, file = Code([folder]), folder / "mine.py"
    file.write_text(USED)
    before = code.closure(["mine.f"])
    file.write_text(f"{USED}\n{statement}\n")
    return code.closure(["mine.f"]) != before


@pytest.mark.parametrize(
    "statement",
    [
        "X = Y = (1, [2], {'a': -3.0, **{}}, f'{f}')",
        "A, (B, C) = 1, (2, 3)",
        "X: Sequence[int] = [x for x in range(3)]",
        "X = re.compile('a' + ' '.join(('b', 'c')))",
        "X = lambda x: register(x)",
        "X = tuple(Plain(x) for x in (1, 2))",
        "X = Refusing(1)",
        "def g(x: Sequence[int] = (1, 2), *, y=Path('a')) -> Plain: register(x)",
        "@cache\ndef g(x): register(x)",
        "@declares(Plain(2))\ndef g(x): register(x)",
        "class C(Plain):\n    x: int = field(default_factory=list)\n    def g(self): register(self)",
        "class C(enum.Enum):\n    A = enum.auto()\n    B = 'b'\n    def g(self): register(self)",
        "class C(TypedDict, total=False):\n    x: int",
        "class C(NamedTuple):\n    x: int = 1",
        "class C(Protocol):\n    @property\n    def g(self): ...\n    @g.setter\n    def g(self, x): ...",
        "class C(ValueError):\n    '''An error.'''\n    def __init__(self): register(self)",
        "'''A text.'''",
        "pass",
    ],
)
def test_what_only_binds_names_counts_where_they_are_used(tmp_path: Path, statement: str) -> None:
    assert not counts(tmp_path, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "register(1)",
        "MADE += [1]",
        "MADE[:] = [1]",
        "f.rate = 1",
        "del MADE",
        "assert f",
        "X = register(1)",
        "X = partial(register, 1)()",
        "X = (Y := 1)",
        "X = [register(x) for x in (1, 2)]",
        "X = MADE.append(1)",
        "X = Checked(1)",
        "X = Asking(1)",
        "X: register(1) = 1",
        "def g(x=register(1)): ...",
        "def g(*, x=register(1)): ...",
        "@register\ndef g(x): ...",
        "@registers(1)\ndef g(x): ...",
        "@declares(register(1))\ndef g(x): ...",
        "@cache\n@register\ndef g(x): ...",
        "class C(Watched): ...",
        "class D(Exception, metaclass=register): ...",
        "class C:\n    x = register(1)",
        "class C:\n    @register\n    def g(self): ...",
        "class C:\n    if f:\n        x = 1",
        "class C(enum.Enum):\n    A = 1\n    def __init__(self, x): register(x)",
        "def tuple(x): register(x)\nX = tuple((1,))",
        "if f: register(1)",
        "for x in (1, 2): pass",
        "with open('a'): pass",
        "try:\n    import json\nexcept ImportError:\n    json = None",
    ],
)
def test_what_may_do_more_counts_always(tmp_path: Path, statement: str) -> None:
    assert counts(tmp_path, statement)
