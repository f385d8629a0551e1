import itertools
import math

import pytest

from kto_lab.errors import LabError
from kto_lab.losses.weighting import Balanced, Deployment, Fixed, Prospect, Weights

COUNTS = [(813, 1467), (10, 2), (5, 5), (1, 999)]


def prospect(form: str = "tversky_kahneman", up: float = 0.61, down: float = 0.69) -> Prospect:
    return Prospect(form, up, down)  # type: ignore[arg-type]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_fixed_weights_do_not_look_at_the_counts(counts: tuple[int, int]) -> None:
    assert Fixed(2.0, 0.0).weights(*counts) == Weights(2.0, 0.0)


@pytest.mark.parametrize("bad", [(-1.0, 1.0), (1.0, -0.1), (0.0, 0.0)], ids=str)
def test_weights_must_not_be_negative(bad: tuple[float, float]) -> None:
    with pytest.raises(LabError, match="lambda_desirable"):
        Fixed(*bad)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("target", [0.2, 1.0, 1.25])
def test_balanced_weights_reach_their_target_with_the_lower_at_one(counts: tuple[int, int], target: float) -> None:
    weights = Balanced(target).weights(*counts)
    assert weights.desirable * counts[0] / (weights.undesirable * counts[1]) == pytest.approx(target)
    assert min(weights.desirable, weights.undesirable) == 1.0


def test_the_scale_of_a_step_is_the_root_mean_square_of_its_weights() -> None:
    assert Weights(1.0, 1.0).scale(3, 29) == 1.0
    assert Weights(164.0, 1.0).scale(0, 32) == 1.0
    assert Weights(164.0, 1.0).scale(1, 31) == pytest.approx(math.sqrt((164**2 + 31) / 32))
    assert Weights(2.0, 0.0).scale(0, 4) == 0.0


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan])
def test_the_target_must_be_positive(target: float) -> None:
    with pytest.raises(LabError, match="target"):
        Balanced(target)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_deployment_weights_make_the_mean_an_expectation_in_deployment(counts: tuple[int, int], share: float) -> None:
    weights = Deployment(share).weights(*counts)
    # Any two losses, one for each class.
    up, down = 0.7, -3.2
    n_up, n_down = counts
    mean = (n_up * weights.desirable * up + n_down * weights.undesirable * down) / (n_up + n_down)
    assert mean == pytest.approx(share * up + (1 - share) * down)


def test_deployment_like_training_weighs_nothing() -> None:
    weights = Deployment(0.25).weights(10, 30)
    assert (weights.desirable, weights.undesirable) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, math.nan])
def test_deployment_must_have_both_classes(share: float) -> None:
    with pytest.raises(LabError, match="desirable_share"):
        Deployment(share)


def felt(weighting: Prospect, p: float) -> tuple[float, float]:
    """w+(p) and w-(1 - p), from the weights where a share p of a million thumbs is up."""
    weights = weighting.weights(p * 1e6, (1 - p) * 1e6)
    return weights.desirable * p, weights.undesirable * (1 - p)


def test_tversky_and_kahnemans_weights_of_1992() -> None:
    # Worked out by hand from equation 6 with their medians; people make too much of 1 in 10, too little of 9 in 10.
    gain_of_1_in_10, loss_of_9_in_10 = felt(prospect(), 0.1)
    gain_of_9_in_10, loss_of_1_in_10 = felt(prospect(), 0.9)
    assert (gain_of_1_in_10, gain_of_9_in_10) == (pytest.approx(0.186, abs=5e-4), pytest.approx(0.712, abs=5e-4))
    assert (loss_of_1_in_10, loss_of_9_in_10) == (pytest.approx(0.170, abs=5e-4), pytest.approx(0.775, abs=5e-4))


def test_prelecs_weights_have_their_fixed_point_at_one_over_e() -> None:
    for curvature in (0.3, 0.65, 1.0, 1.5):
        gain, _ = felt(prospect("prelec", curvature, 1.0), 1 / math.e)
        assert gain == pytest.approx(1 / math.e)
    gain, loss = felt(prospect("prelec", 0.65, 0.5), 0.1)
    assert gain == pytest.approx(math.exp(-(math.log(10) ** 0.65)))
    assert loss == pytest.approx(math.exp(-((-math.log(0.9)) ** 0.5)))


@pytest.mark.parametrize("form", ["tversky_kahneman", "prelec"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_a_curvature_of_one_is_no_distortion(form: str, counts: tuple[int, int]) -> None:
    weights = prospect(form, 1.0, 1.0).weights(*counts)
    assert (weights.desirable, weights.undesirable) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("form", ["tversky_kahneman", "prelec"])
def test_the_rarer_class_is_made_too_much_of(form: str) -> None:
    rare_up, rare_down = prospect(form).weights(5, 95), prospect(form).weights(95, 5)
    assert rare_up.desirable > 1 > rare_up.undesirable
    assert rare_down.undesirable > 1 > rare_down.desirable


def test_what_is_allowed_is_an_increasing_function() -> None:
    shares = [number / 200 for number in range(1, 200)]
    for weighting in (prospect(up=0.281, down=0.69), prospect("prelec", 0.05, 0.69)):
        values = [felt(weighting, p)[0] for p in shares]
        assert all(low < high for low, high in itertools.pairwise(values))


@pytest.mark.parametrize(
    ("form", "up", "down", "words"),
    [
        ("einstein", 0.61, 0.69, "einstein"),
        ("tversky_kahneman", 0.28, 0.69, "above 0.28"),
        ("tversky_kahneman", 0.61, 0.1, "above 0.28"),
        ("tversky_kahneman", math.nan, 0.69, "above 0.28"),
        ("prelec", 0.0, 0.65, "above 0"),
        ("prelec", 0.65, -1.0, "above 0"),
    ],
)
def test_impossible_weightings_are_refused(form: str, up: float, down: float, words: str) -> None:
    with pytest.raises(LabError, match=words):
        prospect(form, up, down)
