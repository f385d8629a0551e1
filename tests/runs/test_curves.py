from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from kto_lab.errors import LabError
from kto_lab.runs.curves import PANELS, plot_curves

COLUMNS = sorted({column for panel in PANELS for column in panel.lines} | {"z0_stderr", "z0", "tokens"})


def write(folder: Path, steps: int, columns: list[str]) -> Path:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({name: random.uniform(size=steps) for name in columns}, index=range(1, steps + 1))
    frame.to_csv(folder / "metrics.csv", index_label="step")
    return folder / "metrics.csv"


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_all_panels_of_a_kto_run(steps: int, tmp_path: Path, figures: list[Figure]) -> None:
    plot_curves(write(tmp_path, steps, COLUMNS), tmp_path / "curves.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "curves.png").shape
    assert width > 1000
    assert height > 1000
    assert [axes.get_title(loc="left") for axes in figures[0].axes] == [panel.title for panel in PANELS]


def test_curves_hold_the_numbers_of_the_file(tmp_path: Path, figures: list[Figure]) -> None:
    metrics = write(tmp_path, 5, COLUMNS)
    plot_curves(metrics, tmp_path / "curves.png")
    loss = figures[0].axes[0].lines[0]
    np.testing.assert_array_equal(loss.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(loss.get_ydata(), pd.read_csv(metrics)["loss"])
    labels = [text.get_text() for text in figures[0].axes[1].texts]
    assert labels == ["desirable", "undesirable"]


def test_panels_without_metrics_are_left_out(tmp_path: Path, figures: list[Figure]) -> None:
    metrics = write(tmp_path, 5, ["loss", "reward_desirable", "reward_undesirable", "z0_raw"])
    frame = pd.read_csv(metrics)
    frame["z0_raw"] = np.nan
    frame.loc[2, "reward_desirable"] = np.nan
    frame.to_csv(metrics, index=False)
    plot_curves(metrics, tmp_path / "curves.png")
    assert [axes.get_title(loc="left") for axes in figures[0].axes] == [PANELS[0].title, PANELS[1].title]
    desirable = figures[0].axes[1].lines[1]
    assert list(desirable.get_xdata()) == [1, 2, 4, 5]


def test_no_step_is_a_lab_error_and_no_picture(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step\n")
    with pytest.raises(LabError, match="no step"):
        plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
