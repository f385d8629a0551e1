"""The code that a run depends on: what is imported, as far as it is no installed package's."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from kto_lab.errors import LabError
from kto_lab.runs.code import Code
from kto_lab.runs.identity import RUN
from tests.runs.code_lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_every_way_to_import_is_followed(lab: Lab) -> None:
    lab.write("pack/__init__.py", "from pack.shared import thing\n")
    lab.write("pack/shared.py", "thing = 1\n")
    lab.write("pack/inner/__init__.py", "")
    lab.write(
        "pack/inner/mine.py",
        "from typing import TYPE_CHECKING\nimport importlib, torch, os.path\nfrom . import beside\nfrom ..up import x\n"
        "if TYPE_CHECKING:\n    import pack.types_only\n"
        "def f():\n    from pack.late import y\n    importlib.import_module('pack.named')\n",
    )
    for name in ("inner/beside", "up", "late", "named", "types_only", "never"):
        lab.write(f"pack/{name}.py", "x = y = 1\n")
    assert lab.modules("pack.inner.mine") == [
        "pack",
        "pack.inner",
        "pack.inner.beside",
        "pack.inner.mine",
        "pack.late",
        "pack.named",
        "pack.shared",
        "pack.up",
    ]


def test_files_that_a_package_names_in_its_code_count(lab: Lab) -> None:
    lab.write("pack/__init__.py", "")
    lab.write("pack/mine.py", "FOLDER = 'data'\nFILE = 'rates.json'\nKEYS = ['inner']\n")
    # A package is code: what it holds counts where it is imported.
    lab.write("pack/inner/__init__.py", "")
    lab.write("pack/inner/other.py", "x = 1\n")
    lab.write("pack/rates.json", "1")
    lab.write("pack/data/table.csv", "a,b")
    lab.write("pack/data/README.md", "About it.")
    lab.write("pack/unnamed.json", "1")
    before = lab.code.closure(["pack.mine"])
    assert list(before) == ["pack", "pack.mine", "pack/data/table.csv", "pack/rates.json"]
    lab.write("pack/data/table.csv", "a,b,c")
    after = lab.code.closure(["pack.mine"])
    assert [key for key in before if before[key] != after[key]] == ["pack/data/table.csv"]


def test_a_module_in_no_package_has_no_folders(lab: Lab) -> None:
    lab.write("mine.py", "RUNS = 'runs'\nFILE = 'words.txt'\n")
    lab.write("runs/record.json", "{}")
    lab.write("words.txt", "one")
    assert lab.modules("mine") == ["/words.txt", "mine"]


def test_what_a_text_names(lab: Lab) -> None:
    lab.write("mine.py", "from torch import relu\nif True:\n    rate = 1\nclass Own:\n    def f(self): ...\n")
    for text in ("mine.relu", "mine.rate", "mine.Own", "mine.Own.f"):
        assert lab.code.module_of(text) == "mine", text
    for text in ("mine", "mine.jsonl", "other.thing", "torch.nn.Linear"):
        assert lab.code.module_of(text) is None, text


def test_what_is_installed_is_not_looked_at() -> None:
    found = Code().closure(["torch.nn", "json", "hydra.utils", RUN])
    assert RUN in found and all(name.startswith("kto_lab") for name in found)


def test_what_this_process_has_imported_stays_what_it_was(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write("mine.py", "rate = 1\n")
    before = lab.code.closure(["mine"])
    imported = ModuleType("mine")
    imported.__file__ = str(lab.folder / "mine.py")
    monkeypatch.setitem(sys.modules, "mine", imported)
    lab.write("mine.py", "rate = 1234\n")
    assert lab.code.closure(["mine"]) == before
    monkeypatch.delitem(sys.modules, "mine")
    assert lab.code.closure(["mine"]) != before


def test_what_is_no_python_is_said(lab: Lab) -> None:
    lab.write("mine.py", "def f(:\n")
    with pytest.raises(LabError, match=r"mine\.py cannot be read as Python.*line 1"):
        lab.code.closure(["mine"])


MODULE = """
import other
from functools import cache
from other import Base, helper, marked

RATE = 1
FLOOR = RATE / 2
SPARE = {"a": [RATE, FLOOR]}

def default():
    return 3

class Own(Base):
    rate = RATE

    def f(self, x):
        return x * other.scale(x)

@cache
def used(x, y=RATE):
    return inner(Own().f(x)) + y

def inner(x):
    return helper(x) - FLOOR

def unused(x):
    return inner(x)
"""
OTHER = """
class Base:
    def g(self):
        return deep()

def deep():
    return 1

def scale(x):
    return 2 * x

def helper(x):
    return x

def marked(function):
    function.mark = 1
    return function

def spare():
    return 0
"""


def changed(lab: Lab, file: str, edit: tuple[str, str], name: str = "mine.used") -> list[str]:
    """What of `MODULE` and `OTHER` is another when one of them is edited."""
    texts = {"mine.py": MODULE, "other.py": OTHER}
    for module, text in texts.items():
        lab.write(module, text)
    before = lab.code.closure([name])
    assert edit[0] in texts[file]
    lab.write(file, texts[file].replace(*edit, 1))
    after = lab.code.closure([name])
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


@pytest.mark.parametrize(
    ("edit", "module"),
    [
        (("FLOOR = RATE / 2", "FLOOR = RATE / 3"), "mine"),
        (("RATE = 1", "RATE = 2"), "mine"),
        (("y=RATE", "y=FLOOR"), "mine"),
        (("Own(Base)", "Own"), "mine"),
        (("@cache\ndef used", "def used"), "mine"),
        (("@cache\ndef used", "@marked\ndef used"), "mine"),
        (("helper(x) - FLOOR", "helper(x) + FLOOR"), "mine"),
        (("from other import Base, helper", "from other import Base, scale as helper"), "mine"),
        (("return deep()", "return -deep()"), "other"),
        (("return 1", "return 2"), "other"),
        (("return 2 * x", "return 3 * x"), "other"),
        (("    return x\n", "    return -x\n"), "other"),
        # What happens when a module is imported.
        (("\nRATE = 1", "\nprint(1)\nRATE = 1"), "mine"),
        (("\nRATE = 1", "\nother.scale = helper\nRATE = 1"), "mine"),
        (("\nRATE = 1", "\nNEW = helper(1)\nRATE = 1"), "mine"),
        (("\nRATE = 1", "\nfor x in (1, 2):\n    RATE = x\nRATE = 1"), "mine"),
        (("\nRATE = 1", "\nif other.scale(1):\n    RATE = 2\nRATE = 1"), "mine"),
        (("\nRATE = 1", "\nimport json\nRATE = 1"), "mine"),
        (("def unused", "@other.scale\ndef unused"), "mine"),
        (("def unused(x)", "def unused(x=default())"), "mine"),
        (("def unused(x)", "def unused(x: default())"), "mine"),
        (("def unused", "class Unused(metaclass=helper):\n    x = 1\n\ndef unused"), "mine"),
        (("def unused", "class Unused:\n    helper(1)\n\ndef unused"), "mine"),
        (("def unused", "class Unused(list[default()]):\n    x = 1\n\ndef unused"), "mine"),
        (("SPARE = {", "SPARE = sorted([1], key=helper), {"), "mine"),
        (("SPARE = {", "SPARE = {**default(), "), "mine"),
        (("SPARE = {", "SPARE = OTHER = other.X = {"), "mine"),
    ],
)
def test_what_a_used_name_depends_on_is_seen(lab: Lab, edit: tuple[str, str], module: str) -> None:
    assert module in changed(lab, f"{module}.py", edit)


@pytest.mark.parametrize(
    ("edit", "module"),
    [
        (('"a": [RATE', '"b": [RATE'), "mine"),
        (("return 3", "return 4"), "mine"),
        (("return inner(x)\n", "return -inner(x)\n"), "mine"),
        (("def unused", "@marked\ndef unused"), "mine"),
        (("def unused", "@cache\ndef unused"), "mine"),
        (("def unused", "from other import spare\n\ndef unused"), "mine"),
        (("def unused", "class Unused(Base):\n    x = RATE\n\ndef unused"), "mine"),
        (("return 0", "return 1"), "other"),
        (("function.mark = 1", "function.mark = 2"), "other"),
    ],
)
def test_what_it_does_not_is_not(lab: Lab, edit: tuple[str, str], module: str) -> None:
    assert changed(lab, f"{module}.py", edit) == []


@pytest.mark.parametrize(
    "body",
    [
        "import other\ndef f():\n    return other.used()",
        "import other as short\ndef f():\n    return short.used()",
        "from other import used as short\ndef f():\n    return short()",
        "def f():\n    from other import used\n    return used()",
        "from other import *\ndef f():\n    return used()",
        "import through\ndef f():\n    return through.used()",
        "from through import used\ndef f():\n    return used()",
        "import through\ndef f():\n    return through.other.used()",
        "from starred import used\ndef f():\n    return used()",
        "def f():\n    import other\n    return other.used()",
        "import other\ndef f():\n    return getattr(other, 'us' + 'ed')()",
        "import other\ndef f(module=other):\n    return module.used()",
        "import importlib\ndef f():\n    return importlib.import_module('other').used()",
        "import other\ndef f(name):\n    return __import__(name).used()",
        "import importlib, pack.inner\ndef f():\n    return importlib.import_module('.inner', 'pack').used()",
        "import other\nfrom importlib import import_module as load\ndef f(name):\n    return load(name).used()",
        "import other\nfrom importlib import import_module\ndef f(names):\n    return map(import_module, names)",
        "import other\ndef f():\n    import sys as system\n    return system.modules['oth' + 'er'].used()",
        "import other\nfrom hydra.utils import get_method\ndef f():\n    return get_method('other.used')()",
        "from other import used\nclass Other:\n    f = used\ndef f(x: 'list[Other]'):\n    return x",
        "import sys\nimport other\ndef f(name):\n    return sys.modules[name].used()",
        "from made import used\ndef f():\n    return used()",
        "try:\n    from other import used\nexcept ImportError:\n    used = None\ndef f():\n    return used()",
        "from other import used\nclass C:\n    used = used\ndef f():\n    return C.used()",
        "from other import used\ndef g():\n    return used()\ndef f():\n    return globals()['g']()",
        "from other import used\ndef g():\n    return used()\ndef f():\n    return eval('g()')",
        "import builtins, other\ndef g():\n    return other.used()\ndef f():\n    return builtins.eval('g()')",
        "import other\nfrom builtins import eval as e\ndef g(): other.used()\ndef f():\n    return e('g()')",
        "from other import used\nclass C:\n    g = used\ndef f():\n    return object.__subclasses__()",
        "import pack.inner\ndef f():\n    return pack.inner.used()",
        "import pack.inner\ndef f():\n    return pack.again()",
        "from pack import inner\ndef f(module=inner):\n    return module.used()",
        "import pack.inner\ndef f():\n    return getattr(pack, 'inner').used()",
    ],
)
def test_however_a_name_is_reached_what_it_does_counts(lab: Lab, body: str) -> None:
    lab.write("mine.py", f"{body}\n")
    lab.write("through.py", "import other\nfrom other import used\n")
    lab.write("starred.py", "from other import *\n")
    lab.write("made.py", "import other\ndef __getattr__(name):\n    return getattr(other, name)\n")
    lab.write("pack/__init__.py", "from .inner import used as again\n")
    lab.write("pack/inner.py", "from other import used\n")
    lab.write("other.py", "def used():\n    return 1\n")
    before = lab.code.closure(["mine.f"])
    lab.write("other.py", "def used():\n    return -1\n")
    assert lab.code.closure(["mine.f"])["other"] != before["other"]


def test_a_method_that_is_called_as_a_builtin_shows_no_names(lab: Lab) -> None:
    lab.write("mine.py", "def f(model): return model.eval()\ndef g(): return 1\n")
    before = lab.code.closure(["mine.f"])
    lab.write("mine.py", "def f(model): return model.eval()\ndef g(): return 22\n")
    assert lab.code.closure(["mine.f"]) == before


def test_a_method_stands_for_its_class_and_a_name_brought_by_a_star_for_the_module(lab: Lab) -> None:
    lab.write("mine.py", "from other import *\nclass Own:\n    @classmethod\n    def f(cls): return 1\n")
    lab.write("other.py", "def g(): return 1\n")
    assert lab.code.module_of("mine.g") == "mine"
    before = lab.code.closure(["mine.Own.f"]), lab.code.closure(["mine.g"])
    lab.write("other.py", "def g(): return 2\n")
    assert lab.code.closure(["mine.g"]) != before[1]
    lab.write("mine.py", "from other import *\nclass Own:\n    @classmethod\n    def f(cls): return 2\n")
    assert lab.code.closure(["mine.Own.f"])["mine"] != before[0]["mine"]
