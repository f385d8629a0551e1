"""Cells that are taken from finished runs: their own, published ones, and on purpose those of other code."""

import json
import sys
from pathlib import Path

import pytest

from kto_lab.errors import LabError
from kto_lab.files import write_json
from kto_lab.runs.record import RECORD
from kto_lab.runs.status import status
from tests.small_runs import thumbs, write_jsonl
from tests.sweeps.ground import Ground

MINE = "from kto_lab.losses import sft\n\n\ndef mine(batch):\n    return sft(batch)\n"


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """A study with a loss of one's own, both of whose cells have been run."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_losses.py").write_text(MINE)
    ground = Ground(tmp_path)
    ground.loss("function: my_losses.mine")
    for planned in ground.plan():
        ground.finish(planned)
    return ground


def written(ground: Ground, text: str) -> None:
    """Another text of the module, as the next process finds it."""
    (ground.folder / "my_losses.py").write_text(text)
    sys.modules.pop("my_losses", None)


def states(ground: Ground, *accept_code: str) -> list[str]:
    return [status(planned.folder) for planned in ground.plan(*accept_code)]


def test_a_cell_whose_loss_is_another_is_missing_and_it_is_said_why(ground: Ground) -> None:
    assert states(ground) == ["done", "done"]
    written(ground, MINE.replace("return sft", "return -sft"))
    assert states(ground) == ["missing", "missing"]
    assert all(said.startswith("code: my_losses (nearest: ") for said in ground.why())
    written(ground, f"# Mine.\n{MINE}")
    assert states(ground) == ["done", "done"]


def test_a_module_that_python_does_not_find_is_an_error(ground: Ground) -> None:
    (ground.folder / "my_losses.py").unlink()
    sys.modules.pop("my_losses")
    (ground.folder / "plan.json").unlink()
    with pytest.raises(LabError, match="my_losses"):
        ground.plan()
    written(ground, MINE)
    assert states(ground) == ["done", "done"]


def test_other_code_is_taken_where_it_is_accepted(ground: Ground) -> None:
    before = ground.plan()
    written(ground, MINE.replace("return sft", "return 1.0 * sft"))
    assert states(ground, "kto_lab", "my") == ["missing", "missing"]
    for part in ("my_losses", "all"):
        found = ground.plan(part)
        assert [one.folder for one in found] == [one.folder for one in before]
        assert [(one.run_id, one.accepted) for one in found] == [(one.run_id, ("my_losses",)) for one in before]
    # A run of its own comes first.
    ground.finish(ground.plan()[0])
    assert [one.accepted for one in ground.plan("all")] == [(), ("my_losses",)]
    # What differs by more than its code is not taken.
    write_jsonl(ground.thumbs, thumbs(28))
    assert states(ground, "all") == ["missing", "missing"]


def test_why_names_keys_with_both_values_and_files(ground: Ground) -> None:
    ground.loss("function: my_losses.mine", "beta: 0.7")
    assert all(said.startswith("configuration: loss.reward_beta 0.7 instead of ") for said in ground.why())
    ground.loss("function: my_losses.mine")
    write_jsonl(ground.thumbs, thumbs(28))
    assert all(
        said.startswith("data: other content of feedback.path (thumbs.jsonl) (nearest:") for said in ground.why()
    )


def test_a_published_run_stands_for_its_cell_where_its_identity_holds(ground: Ground) -> None:
    published = ground.folder / "results" / "mine" / "cells"
    published.parent.mkdir(parents=True)
    (ground.folder / "runs" / "cells").rename(published)
    assert [planned.folder.parent for planned in ground.plan()] == [published, published]
    assert states(ground) == ["done", "done"]
    # One that was made before records had an identity is only compared with.
    for file in published.glob(f"*/{RECORD}"):
        record = json.loads(file.read_text())
        del record["identity"]
        write_json(file, record | {"schema": 1})
        file.parent.rename(published / f"old{file.parent.name}")
    assert states(ground) == ["missing", "missing"] == states(ground, "all")
    assert all(said.startswith("code and data: unknown") and "results/mine" in said for said in ground.why())


def test_where_nothing_is_finished_that_is_said(tmp_path: Path) -> None:
    assert set(Ground(tmp_path).why()) == {"there is no finished run to compare with"}


def test_the_parts_of_an_identity_stand_in_the_plan(ground: Ground) -> None:
    (planned, _), plan = ground.plan(), json.loads((ground.folder / "plan.json").read_text())
    for cell in plan["cells"].values():
        assert cell["identity"]["data"] == planned.identity.data and cell["identity"]["data"].keys() == {
            "feedback.path"
        }
        assert plan["code"][cell["code"]] == planned.identity.code
    assert "my_losses" in planned.identity.code
