import numpy as np
import pytest
from sklearn.metrics import log_loss

from kto_lab.errors import LabError
from kto_lab.labeling.calibration import platt, prior_calibration

RNG = np.random.default_rng(0)


def test_it_recovers_how_margins_and_thumbs_go_together() -> None:
    margins = RNG.normal(-3, 0.2, size=2000)
    chances = 1 / (1 + np.exp(-(8 * (margins + 3) - 1)))
    thumbs = RNG.random(2000) < chances
    found = platt(margins, thumbs, "x")
    assert found.slope == pytest.approx(8, rel=0.15)
    assert np.abs(found.chance(margins) - chances).max() < 0.06
    assert log_loss(thumbs, found.chance(margins)) < log_loss(thumbs, np.full(2000, thumbs.mean()))


def test_a_judge_that_has_it_the_wrong_way_round_tells_nothing() -> None:
    margins = RNG.normal(size=300)
    thumbs = RNG.random(300) < 1 / (1 + np.exp(2 * margins))
    found = platt(margins, thumbs, "x")
    assert found.slope == 0
    assert found.chance(margins) == pytest.approx(thumbs.mean())


def test_margins_that_do_not_vary_tell_nothing() -> None:
    found = platt(np.zeros(10), np.arange(10) < 3, "x")
    assert found.slope == 0 and found.chance(np.array([0.0, 9.0])) == pytest.approx([0.3, 0.3])


def test_without_thumbs_the_prior_is_the_middle() -> None:
    assert prior_calibration(-2.0).chance(np.array([-2.0, 0.0])) == pytest.approx([0.5, 1 / (1 + np.exp(-2))])


def test_both_kinds_of_thumb_are_needed() -> None:
    with pytest.raises(LabError, match=r"finds 4 up and 0 down"):
        platt(np.arange(4.0), np.ones(4, dtype=bool), "It")
