"""The code that runs of this package depend on: which edits of a copy of it are seen, and which are not."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import kto_lab
from kto_lab.runs.identity import CODE, RUN, may_be_code, plain_values, roots, settings
from tests.runs.code_lab import Lab
from tests.small_runs import configuration


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The package itself, to be edited."""
    folder = tmp_path_factory.mktemp("copied")
    source = Path(kto_lab.__file__).parent
    shutil.copytree(source, folder / "kto_lab", ignore=shutil.ignore_patterns("__pycache__"))
    return Lab(folder)


ROOTS = (RUN, "kto_lab.losses", "kto_lab.feedback.file")


def edited(lab: Lab, file: str, edit: tuple[str, str], names: Sequence[str] = ROOTS) -> list[str]:
    """What an edit changes; the file is as it was afterwards."""
    before = lab.code.closure(names)
    path = lab.folder / "kto_lab" / file
    text = path.read_text()
    assert edit[0] in text
    path.write_text(text.replace(*edit, 1))
    after = lab.code.closure(names)
    path.write_text(text)
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("runs/train.py", ("cache: ProcessCache = NO_CACHE", "cache: ProcessCache | None = NO_CACHE")),
        ("training/fit.py", ("\nimport", "\nimport this\nimport")),
        ("training/module.py", ("self", "this")),
        ("models/generate.py", ("import torch", "import torch\ntorch.manual_seed(3)")),
        ("feedback/checkers.py", ("return all(", "return not all(")),
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
        ("runs/curves.py", ("import", "import this\nimport")),
        ("training/loggers.py", ("import", "import this\nimport")),
        ("models/store.py", ("import", "import this\nimport")),
        ("training/fit.py", ("\nimport", "\n# A comment.\nimport")),
        ("training/fit.py", ('"""', '"""Another word. ')),
        ("losses/thumbs.py", ("\n\n\n", "\n\n\n\n")),
        ("feedback/checkers.py", ("return json.dumps(", "return '' + json.dumps(")),
    ],
)
def test_an_edit_of_anything_else_is_not(copied: Lab, file: str, edit: tuple[str, str]) -> None:
    assert edited(copied, file, edit) == []


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """What a run starts from, by its loss."""
    folder = tmp_path_factory.mktemp("names")
    found = {}
    for loss in ("kto", "dpo"):
        values = settings(plain_values(configuration(folder, f"loss={loss}"))).values()
        found[loss] = roots(text for text in values if may_be_code(text) and CODE.module_of(text))
    return found


UNUSED = """

RATE_OF_NOTHING = 3


@dataclass(frozen=True)
class Unused:
    rate: int = RATE_OF_NOTHING


def unused(value: int = 1) -> int:
    return value + RATE_OF_NOTHING
"""


@pytest.mark.parametrize(
    "file",
    [
        "statistics.py",
        "hashing.py",
        "models/store.py",
        "models/store_disk.py",
        "models/store_shards.py",
        "models/store_scorer.py",
        "models/tiny.py",
        "losses/pairs.py",
        "losses/thumbs.py",
        "feedback/corruption/flips.py",
        "runs/record.py",
        "training/fit.py",
    ],
)
def test_what_no_run_uses_is_not_seen_wherever_it_is(copied: Lab, names: dict[str, tuple[str, ...]], file: str) -> None:
    text = (copied.folder / "kto_lab" / file).read_text()
    unused = UNUSED if "import dataclass" in text else UNUSED.replace("@dataclass(frozen=True)\n", "")
    assert edited(copied, file, (text, text + unused), names["kto"]) == []


def test_a_loss_counts_where_it_is_the_loss(copied: Lab, names: dict[str, tuple[str, ...]]) -> None:
    flipped = ("return -F.logsigmoid", "return F.logsigmoid")
    assert edited(copied, "losses/pairs.py", flipped, names["dpo"]) == ["kto_lab.losses.pairs"]
    assert edited(copied, "losses/pairs.py", flipped, names["kto"]) == []
    other = ("return batch", "return -batch")
    assert edited(copied, "losses/thumbs.py", other, names["kto"]) == ["kto_lab.losses.thumbs"]
    assert edited(copied, "losses/thumbs.py", other, names["dpo"]) == []


def test_what_all_losses_are_declared_by_counts_in_every_run(copied: Lab, names: dict[str, tuple[str, ...]]) -> None:
    other = ("function.needs = needs", "function.needs = needs\n        LOSSES.append(function)")
    assert "kto_lab.losses.pairs" in edited(copied, "losses/inputs.py", other, names["kto"])
