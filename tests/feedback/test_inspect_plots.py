from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kto_lab.feedback.inspect_numbers import Classes, Flips
from kto_lab.feedback.inspect_plots import plot_inspection

BEFORE = Classes(4, 3, 1, share=0.75, ratio=3.0)
AFTER = Classes(4, 2, 2, share=0.5, ratio=1.0)
FLIPS = Flips(2, 1, 0, 1, rate_down=1 / 3, rate_up=0.0)
LENGTHS = {"desirable": np.array([3, 1, 2]), "undesirable": np.array([5])}


def test_the_picture_holds_the_numbers(tmp_path: Path, figures: list[Figure]) -> None:
    lengths = {"before": LENGTHS, "after": LENGTHS}
    plot_inspection(tmp_path / "inspect.png", {"before": BEFORE, "after": AFTER}, FLIPS, lengths)
    assert (tmp_path / "inspect.png").stat().st_size > 10_000
    classes, flips, *curves = figures[0].axes
    assert [bar.get_width() for bar in classes.patches] == [3, 2, 1, 2]
    said = [text.get_text() for text in classes.texts]
    assert said == ["desirable 3  75%", "2  50%", "undesirable 1  25%", "2  50%"]
    cells = [text.get_text() for text in flips.texts]
    assert cells == ["2\n66.7% of the row", "1\n33.3% of the row", "0\n0.0% of the row", "1\n100.0% of the row"]
    assert [axes.get_title(loc="left") for axes in curves] == [
        "completion lengths, before",
        "completion lengths, after",
    ]
    desirable, undesirable = curves[0].lines
    assert list(desirable.get_xdata()) == [0, 1, 2, 3]
    np.testing.assert_allclose(desirable.get_ydata(), [0, 1 / 3, 2 / 3, 1])
    assert desirable.get_linestyle() != undesirable.get_linestyle(), "told apart without colour"


def test_a_class_or_a_row_that_is_missing_leaves_no_mark(tmp_path: Path, figures: list[Figure]) -> None:
    one_class = {"desirable": np.array([3, 1]), "undesirable": np.array([], dtype=int)}
    counts = {"train": Classes(2, 2, 0, share=1.0, ratio=None)}
    plot_inspection(tmp_path / "inspect.png", counts, Flips(2, 0, 0, 0, 0.0, None), {"train": one_class})
    assert len(figures[0].axes) == 3
    assert len(figures[0].axes[2].lines) == 1
    assert figures[0].axes[1].texts[3].get_text().startswith("0\n")
