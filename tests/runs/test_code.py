"""The code that a run depends on: what is imported, as far as it is no installed package's."""

import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import kto_lab
from kto_lab.errors import LabError
from kto_lab.runs.code import Code
from kto_lab.runs.identity import RUN


class Lab:
    """Modules in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = Code([folder])

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def modules(self, *roots: str) -> list[str]:
        return list(self.code.closure(roots))


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
    lab.write("pack/mine.py", "FOLDER = 'data'\nFILE = 'rates.json'\n")
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


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The package itself, to be edited."""
    folder = tmp_path_factory.mktemp("copied")
    source = Path(kto_lab.__file__).parent
    shutil.copytree(source, folder / "kto_lab", ignore=shutil.ignore_patterns("__pycache__"))
    return Lab(folder)


ROOTS = (RUN, "kto_lab.losses", "kto_lab.feedback.file")


def edited(lab: Lab, file: str, edit: tuple[str, str]) -> list[str]:
    """What an edit changes; the file is as it was afterwards."""
    before = lab.code.closure(ROOTS)
    path = lab.folder / "kto_lab" / file
    text = path.read_text()
    assert edit[0] in text
    path.write_text(text.replace(*edit, 1))
    after = lab.code.closure(ROOTS)
    path.write_text(text)
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("runs/train.py", ("cache: ProcessCache = NO_CACHE", "cache: ProcessCache | None = NO_CACHE")),
        ("training/fit.py", ("import", "import this\nimport")),
        ("training/module.py", ("self", "this")),
        ("models/generate.py", ("import torch", "import torch\ntorch.manual_seed(3)")),
        ("feedback/checkers.py", ("return", "return not")),
        ("losses/thumbs.py", ("return batch", "return -batch")),
        ("feedback/file.py", ("import", "import this\nimport")),
    ],
)
def test_an_edit_of_what_makes_a_result_is_seen(copied: Lab, file: str, edit: tuple[str, str]) -> None:
    assert edited(copied, file, edit) == [f"kto_lab.{file.removesuffix('.py').replace('/', '.')}"]


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("reports/figures.py", ("import", "import this\nimport")),
        ("reports/page.py", ("import", "import this\nimport")),
        ("importing/thumbs.py", ("import", "import this\nimport")),
        ("sweeps/sweep.py", ("import", "import this\nimport")),
        ("cli.py", ("import", "import this\nimport")),
        ("console.py", ("import", "import this\nimport")),
        ("training/curves.py", ("import", "import this\nimport")),
        ("training/loggers.py", ("import", "import this\nimport")),
        ("models/store.py", ("import", "import this\nimport")),
        ("training/fit.py", ("import", "# A comment.\nimport")),
        ("training/fit.py", ('"""', '"""Another word. ')),
        ("losses/thumbs.py", ("\n\n\n", "\n\n\n\n")),
    ],
)
def test_an_edit_of_anything_else_is_not(copied: Lab, file: str, edit: tuple[str, str]) -> None:
    assert edited(copied, file, edit) == []
