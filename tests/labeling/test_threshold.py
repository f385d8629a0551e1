import numpy as np
import pytest

from kto_lab.errors import LabError
from kto_lab.labeling.threshold import Threshold

SCORES = np.random.default_rng(0).normal(size=200).tolist()


def ups(threshold: Threshold, scores: list[float]) -> int:
    line = threshold.line(scores)
    return sum(threshold.thumb(score, line) is True for score in scores)


def test_each_way_to_draw_the_line() -> None:
    assert ups(Threshold("value", 0.5, 0), SCORES) == sum(score > 0.5 for score in SCORES)
    assert ups(Threshold("quantile", 0.75, 0), SCORES) == 50
    assert ups(Threshold("ratio", 1 / 3, 0), SCORES) == 50
    assert ups(Threshold("ratio", 1.0, 0), SCORES) == 100


def test_equal_scores_are_never_told_apart() -> None:
    scores = [0.0] * 6 + [1.0] * 2 + [2.0] * 2
    assert ups(Threshold("quantile", 0.7, 0), scores) in (2, 4)
    assert ups(Threshold("quantile", 0.55, 0), scores) == 4, "the nearest share that there is"
    assert ups(Threshold("quantile", 0.5, 0), [3.0] * 4) == 0


def test_near_the_line_there_is_no_thumb() -> None:
    threshold = Threshold("value", 0.5, 0.1)
    assert [threshold.thumb(score, 0.5) for score in (0.2, 0.45, 0.55, 0.7)] == [False, None, None, True]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("median", 0.5, 0), "threshold.by"),
        (("quantile", 1.5, 0), "between 0 and 1"),
        (("ratio", 0, 0), "above 0"),
        (("value", 0, -1), "margin"),
    ],
)
def test_a_line_that_cannot_be_drawn(given: tuple[str, float, float], said: str) -> None:
    with pytest.raises(LabError, match=said):
        Threshold(*given)  # type: ignore[arg-type]
