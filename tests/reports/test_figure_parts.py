import pytest

from kto_lab.errors import LabError
from kto_lab.reports.figure_parts import Axis, axis_of, spread
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
