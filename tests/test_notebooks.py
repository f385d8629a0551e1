"""The notebooks run from their first cell to their last, and show what is committed with them."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
# These train the real model.
SLOW = ("thumbs_nothing_checks",)
# A tag of cells whose numbers and answers another processor may round to others: they show as much, not the same.
ROUNDING = "rounding"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in sorted(NOTEBOOKS.glob("*.ipynb"))
    ],
)
def test_a_notebook_runs_and_shows_what_it_showed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    before = [shown(cell) for cell in notebook.cells]
    # Commands in cells are those of this environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    assert [shown(cell) for cell in notebook.cells] == before
    assert any("image/png" in kinds for kinds in before)


def shown(cell: nbformat.NotebookNode) -> dict[str, str]:
    """What a cell shows, by kind; of pictures, and of cells with the tag `ROUNDING`, only that there is something."""
    found: dict[str, str] = {}
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            if output.name == "stdout":  # on the other are remarks of libraries on this machine
                found["stdout"] = found.get("stdout", "") + output.text.replace("\r\n", "\n")
            continue
        assert output.output_type in ("execute_result", "display_data"), output
        data = output["data"]
        if "image/png" in data:
            found["image/png"] = ""
        elif "text/markdown" in data:
            found["text/markdown"] = data["text/markdown"]
        else:
            found |= data
    return dict.fromkeys(found, "") if ROUNDING in cell.metadata.get("tags", ()) else found
