"""What a file of Python does, apart from how it is written."""

import ast

import pytest

from kto_lab.runs.source import canonical

PLAIN = """
import math

RATE = 2

def outer(x, y=1):
    total = x + y
    for item in range(3):
        total += item * math.pi

    def inner(z):
        nonlocal total
        total -= z
        return [part for part in (total, z) if part > item]

    try:
        found = inner(1)
    except ValueError as error:
        raise KeyError(total) from error
    match found:
        case [first, *rest]:
            return first, rest
        case {"a": one, **others}:
            return one, others
        case other if (seen := other):
            return seen
"""


def same(one: str, other: str) -> bool:
    return canonical(ast.parse(one)) == canonical(ast.parse(other))


@pytest.mark.parametrize("name", ["total", "item", "part", "found", "error", "first", "rest", "one", "others", "seen"])
def test_the_name_of_a_variable_is_not_what_a_file_does(name: str) -> None:
    words = PLAIN.replace(name, f"{name}_by_another_name") if name != "one" else PLAIN.replace("one", "single")
    assert words != PLAIN and same(PLAIN, words)


@pytest.mark.parametrize(
    ("words", "others"),
    [
        ("return first, rest", "return rest, first"),
        ("total += item", "total -= item"),
        ("total += item * math.pi", "total += total * math.pi"),
        ("nonlocal total", "total = 0"),
        ("def outer(x", "def outer(w"),
        ("def outer(x, y=1)", "def outer(x, y=2)"),
        ("RATE = 2", "SPEED = 2"),
        ("part > item", "part > part"),
        ("math.pi", "math.e"),
        ("import math", "import math\nimport os"),
        ("range(3)", "range(3.0)"),
        ("x + y", "y + x"),
    ],
)
def test_what_is_run_is(words: str, others: str) -> None:
    assert words in PLAIN and not same(PLAIN, PLAIN.replace(words, others))


def test_comments_docstrings_layout_and_annotations_of_variables_are_not() -> None:
    plain = "class C:\n    a: int = 1\n    def f(self):\n        x = 1\n        return {'a': x,\n 'b': None}\n"
    written = '''"""About it."""
class C:
    """A class."""
    a: int = 1
    """What a is."""

    def f(self):  # of C
        """Returns."""
        x: int = 1
        y: float
        pass
        return {"a": x, "b": None}
'''
    assert same(plain, written)
    assert not same(plain, plain.replace("a: int", "a: float")), "an attribute's annotation makes a dataclass's field"
    assert not same(plain, plain.replace("None", "0"))


def test_what_is_for_types_alone_is_not() -> None:
    plain = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\n"
    assert same(plain, plain.replace("pass", "import torch\n    X = 1"))
    assert not same(plain, plain + "else:\n    X = 1\n")


def test_a_variable_that_is_seen_by_its_name_keeps_it() -> None:
    plain = "def f():\n    rate = 1\n    def g():\n        return locals()\n    return rate, g\n"
    assert not same(plain, plain.replace("rate", "speed"))
    # `f"{rate=}"` writes the name.
    assert not same("def f():\n    rate = 1\n    return f'{rate=}'", "def f():\n    pace = 1\n    return f'{pace=}'")


def test_names_are_looked_up_where_python_does() -> None:
    # In the body of a class its own names come first; in its methods they are not seen.
    plain = (
        "def f():\n    x = 1\n    class C:\n        y = x\n        def m(self):\n            return x\n    return C\n"
    )
    assert same(plain, plain.replace("x", "renamed"))
    assert not same(plain, plain.replace("y = x", "x = x"))
    # A name that a function declares global is the module's.
    plain = "rate = 1\ndef f():\n    global rate\n    rate = 2\n"
    assert not same(plain, plain.replace("    global rate\n", ""))
    assert not same(plain, plain.replace("rate", "speed"))
    # What a comprehension runs over first is looked up outside it.
    assert same("def f(v):\n    x = v\n    return [x for x in x]", "def f(v):\n    z = v\n    return [u for u in z]")
    assert not same("def f(x):\n    return [x for y in x]", "def f(x):\n    return [y for y in x]")
