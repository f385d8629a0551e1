import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from kto_lab.labeling.agreement import agreement, krippendorff_alpha, pairwise_kappa


def each_alone(n: int) -> list[str]:
    return [f"prompt {number}" for number in range(n)]


def table(*raters: str) -> list[list[str | None]]:
    """Units by raters, from one line per rater; a dot is nothing."""
    rows = [[None if mark == "." else mark for mark in rater.split()] for rater in raters]
    return [list(unit) for unit in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    ("raters", "alpha"),
    [
        # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", examples A, B and C.
        (("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"), 0.095),
        (("a a b b d c c c e d d a", "b a b b b c c c e d d d"), 0.692),
        (
            (
                "1 2 3 3 2 1 4 1 2 . . .",
                "1 2 3 3 2 2 4 1 2 5 . 3",
                ". 3 3 3 2 3 4 2 2 5 1 .",
                "1 2 3 3 2 4 4 1 2 5 1 .",
            ),
            0.743,
        ),
    ],
)
def test_alpha_of_the_published_examples(raters: tuple[str, ...], alpha: float) -> None:
    units = table(*raters)
    found = krippendorff_alpha(units, each_alone(len(units)))
    assert found.value == pytest.approx(alpha, abs=5e-4)
    assert found.low is not None and found.low < alpha < (found.high or 0)


def test_alpha_where_it_is_not_defined() -> None:
    assert krippendorff_alpha(table("a . b", ". a ."), each_alone(3)).value is None, "no unit has two ratings"
    assert krippendorff_alpha(table("a a", "a a"), each_alone(2)).value is None, "nothing varies"
    assert krippendorff_alpha(table("a b a b", "a b a b"), each_alone(4)).value == 1


def test_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for bias in (0.2, 0.5, 0.9):
        truth = rng.random(200) < bias
        labels = np.where(rng.random(200) < 0.7, truth, rng.random(200) < 0.5)
        found = agreement(labels.tolist(), truth.tolist(), each_alone(200))
        assert found is not None
        assert found.kappa.value == pytest.approx(cohen_kappa_score(labels, truth))
        assert found.accuracy.value == pytest.approx((labels == truth).mean())
        assert found.found_up.value == pytest.approx(labels[truth].mean())
        assert found.found_down.value == pytest.approx((~labels[~truth]).mean())
        counts = found.confusion
        assert counts.up_up + counts.up_down + counts.down_up + counts.down_down == 200
        assert (counts.up_down, counts.down_up) == ((labels & ~truth).sum(), (~labels & truth).sum())


def test_only_answers_with_both_thumbs_count() -> None:
    found = agreement([True, None, False, True], [True, True, None, False], each_alone(4))
    assert found is not None and found.answers == 2
    assert agreement([None, True], [True, None], each_alone(2)) is None


def test_kappa_is_none_where_neither_rater_varies() -> None:
    found = agreement([True, True], [True, True], each_alone(2))
    assert found is not None and found.kappa.value is None and found.accuracy.value == 1
    assert found.accuracy.low is not None and found.accuracy.low < 0.5, "two prompts say little"


def test_intervals_are_over_prompts() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat(rng.random(30) < 0.5, 10)
    labels = np.where(np.repeat(rng.random(30) < 0.8, 10), truth, ~truth)
    prompts = np.repeat(np.arange(30), 10).tolist()
    together = agreement(labels.tolist(), truth.tolist(), prompts)
    alone = agreement(labels.tolist(), truth.tolist(), each_alone(300))
    assert together is not None and alone is not None and together.kappa.n == 30

    def width(estimate: object) -> float:
        return estimate.high - estimate.low  # type: ignore[attr-defined]

    assert width(together.kappa) > 2 * width(alone.kappa), "ten equal answers are one"


def test_the_interval_covers_the_true_kappa() -> None:
    rng = np.random.default_rng(2)
    # Labels right with 0.85 of balanced truths: kappa 0.7.
    covered = 0
    for _ in range(20):
        truth = rng.random(150) < 0.5
        labels = np.where(rng.random(150) < 0.85, truth, ~truth)
        found = agreement(labels.tolist(), truth.tolist(), each_alone(150))
        assert found is not None and found.kappa.low is not None and found.kappa.high is not None
        covered += found.kappa.low <= 0.7 <= found.kappa.high
    assert covered >= 16


def test_a_few_prompts_give_no_interval() -> None:
    labels, truth = [True, False, True, True] * 6, [True, False, False, True] * 6
    for prompts, shown in ((2, False), (24, True)):
        of = [n % prompts for n in range(24)]
        found = agreement(labels, truth, of)
        assert found is not None and found.kappa.value is not None
        alpha = krippendorff_alpha([*zip(labels, truth, strict=True)], of)
        for estimate in (found.kappa, found.accuracy, found.found_down, alpha):
            assert (estimate.low is not None) == shown


def test_every_two_raters() -> None:
    raters = {"a": [True, False, True], "b": [True, False, False], "c": [None, None, None]}
    found = pairwise_kappa(raters, each_alone(3))
    assert list(found) == [("a", "b")]
