"""The script that measures labelers: its cells compose, and its page says what they found."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from kto_lab.configuration import check_keys
from kto_lab.keys import LABEL
from tests.small_runs import composed

FILE = Path(__file__).parents[2] / "scripts" / "label_quality.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("label_quality", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_cell_composes_and_its_files_are_there(script: ModuleType) -> None:
    for name, words in script.CELLS.items():
        cfg = composed([*words, "output=x.parquet"], name="label")
        check_keys(cfg, LABEL)
        path = str(cfg.labeler.get("path", "shipped"))
        assert path in ("shipped", "example") or (FILE.parents[1] / path).is_file(), name


def test_the_page_is_that_of_the_published_cells(script: ModuleType) -> None:
    cells = {name: script._read(name) for name in script.CELLS if script._file(name).exists()}
    assert cells and script.page(cells) == (script.TARGET / "README.md").read_text()
    for name, cell in cells.items():
        assert cell["command"].split()[3:-1] == script.CELLS[name], name
