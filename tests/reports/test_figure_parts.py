import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from kto_lab.errors import LabError
from kto_lab.reports.figure_parts import BASE_COLOUR, COLOURS, Axis, axis_of, spread, styles
from kto_lab.reports.specs import FigureSpec


def test_labels_move_apart_no_further_than_they_must() -> None:
    assert spread([0.0, 50.0, 20.0], 10) == [0.0, 50.0, 20.0]
    assert spread([10.0, 12.0], 10) == pytest.approx([6.0, 16.0])
    moved = spread([5.0, 5.0, 5.0, 16.0], 10)
    assert sorted(moved) == pytest.approx([-7.25, 2.75, 12.75, 22.75])
    assert spread([], 10) == []


def test_numbers_stand_where_they_are_and_words_side_by_side() -> None:
    spec = FigureSpec("f", "line", "pass_rate", "corruption.rate")
    assert axis_of([0.2, 0.05, 0.2], spec, "x") == Axis([0.05, 0.2], [0.05, 0.2], None)
    words = axis_of(["kto", "dpo", "kto"], spec, "x")
    assert (words.values, words.places, words.names) == (["kto", "dpo"], [0.0, 1.0], ["kto", "dpo"])
    assert words.place("dpo") == 1.0
    with pytest.raises(LabError, match="has no place on a log axis"):
        axis_of([0, 0.1], FigureSpec("f", "line", "pass_rate", "corruption.rate", log_x=True), "x")


# What is seen of linear RGB where one kind of cone is lacking (Machado, Oliveira and Fernandes 2009, severity 1).
VISIONS = {
    "three cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]])


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
def test_people_who_lack_a_cone_tell_the_colours_apart(vision: str) -> None:
    seen = [lab(np.array(VISIONS[vision]) @ linear(colour)) for colour in COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_names_in_a_lines_colour_are_readable_on_white() -> None:
    assert all(1.05 / (XYZ[1] @ linear(colour) + 0.05) >= 3 for colour in (*COLOURS, BASE_COLOUR))


def test_lines_differ_by_more_than_their_colour_and_by_no_less_beyond_the_colours() -> None:
    looks = styles(pd.DataFrame({"arm": range(3 * len(COLOURS))}), "arm")
    assert len({(look.colour, str(look.dashes), look.marker) for look in looks.values()}) == len(looks)
    first = [looks[place] for place in range(len(COLOURS))]
    assert len({str(look.dashes) for look in first}) == len({look.marker for look in first}) == len(COLOURS)
