"""The notebooks run from their first cell to their last, and show what is committed with them."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_showed(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    before = [shown(cell) for cell in notebook.cells]
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    assert [shown(cell) for cell in notebook.cells] == before
    assert any("image/png" in kinds for kinds in before)


def shown(cell: nbformat.NotebookNode) -> dict[str, str]:
    """What a cell shows, by kind; of pictures only that there is one."""
    found: dict[str, str] = {}
    for output in cell.get("outputs", ()):
        if output.output_type == "stream" and output.name == "stderr":
            continue  # remarks of libraries on this machine
        assert output.output_type in ("execute_result", "display_data"), output
        data = output["data"]
        if "image/png" in data:
            found["image/png"] = ""
        elif "text/markdown" in data:
            found["text/markdown"] = data["text/markdown"]
        else:
            found |= data
    return found
