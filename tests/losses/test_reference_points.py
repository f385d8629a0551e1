import math
import statistics
from collections.abc import Callable, Sequence

import pytest
import torch

from kto_lab.errors import LabError
from kto_lab.losses.objective import Estimator
from kto_lab.losses.reference_points import (
    Batch,
    Completions,
    Evidence,
    Legacy,
    Matched,
    Microbatch,
    ReferencePoint,
    RunningMean,
    Sampled,
    State,
    Zero,
)

RATIOS = [1.0, 3.0, -1.0, 5.5]


def evidence(ratios: Sequence[float], desirable: Sequence[bool] | None = None) -> Evidence:
    labels = [False] * len(ratios) if desirable is None else desirable
    return Evidence(torch.tensor(ratios), torch.tensor(labels, dtype=torch.bool))


def stderr(ratios: Sequence[float]) -> float:
    return statistics.stdev(ratios) / math.sqrt(len(ratios))


@pytest.mark.parametrize(
    ("estimator", "completions"),
    [
        (Batch(), Completions.MISMATCHED),
        (Matched(clamp=True), Completions.MATCHED),
        (Sampled(samples=4, max_new_tokens=8), Completions.SAMPLED),
    ],
    ids=lambda one: type(one).__name__,
)
def test_those_of_a_whole_step_are_the_clamped_mean(estimator: Estimator, completions: Completions) -> None:
    assert estimator.completions is completions and estimator.group is None
    above = estimator.estimate(evidence(RATIOS), ())
    assert above.z0.ndim == 0 and above.z0.item() == above.raw == statistics.mean(RATIOS)
    assert above.stderr == pytest.approx(stderr(RATIOS)) and above.clamped == 0.0
    below = estimator.estimate(evidence([-r for r in RATIOS]), ())
    assert (below.z0.item(), below.raw, below.clamped) == (0.0, -statistics.mean(RATIOS), 1.0)
    assert below.stderr == pytest.approx(stderr(RATIOS))
    assert estimator.estimate(evidence([2.0]), ()).stderr == 0.0


@pytest.mark.parametrize(
    "estimator", [Batch(clamp=False), Matched(), Sampled(4, 8, clamp=False)], ids=lambda one: type(one).__name__
)
def test_without_the_clamp_a_negative_mean_stays(estimator: Estimator) -> None:
    point = estimator.estimate(evidence([-2.0, -4.0]), ())
    assert (point.z0.item(), point.raw, point.clamped) == (-3.0, -3.0, 0.0)


def test_groups_have_a_reference_point_each() -> None:
    groups = [[1.0, 3.0, 5.0], [-2.0, -4.0, 0.0], [1.0, 0.0, -1.0]]
    step = evidence([*groups[0], *groups[1], *groups[2]])
    point = Microbatch(size=3).estimate(step)
    assert Microbatch(size=3).group == 3
    assert point.z0.tolist() == [3.0] * 3 + [0.0] * 6
    assert point.raw == pytest.approx(statistics.mean([3.0, -2.0, 0.0])) and point.clamped == pytest.approx(1 / 3)
    assert point.stderr == pytest.approx(math.sqrt(statistics.mean(stderr(group) ** 2 for group in groups)))
    free = Microbatch(size=3, clamp=False).estimate(step)
    assert free.z0.tolist() == [3.0] * 3 + [-2.0] * 3 + [0.0] * 3 and free.clamped == 0.0


def test_clamping_each_group_makes_the_average_larger() -> None:
    ratios = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    whole = Batch().estimate(evidence(ratios)).z0.item()
    small = Microbatch(size=4).estimate(evidence(ratios)).z0.mean().item()
    # Means of four have a deviation of 1/2; the mean of max(0, normal) is the deviation over sqrt(2 pi).
    assert small == pytest.approx(0.5 / math.sqrt(2 * math.pi), abs=0.05) and small > whole + 0.1


def test_one_group_is_the_whole_step() -> None:
    group, whole = Microbatch(size=4).estimate(evidence(RATIOS)), Batch().estimate(evidence(RATIOS))
    assert (group.z0.item(), group.raw, group.stderr) == (whole.z0.item(), whole.raw, whole.stderr)


def test_legacy_is_the_mean_of_one_process_over_their_number() -> None:
    ratios = [8.0, 4.0, -2.0, -6.0]
    micro = Microbatch(size=2).estimate(evidence(ratios))
    point = Legacy(size=2, world_size=8).estimate(evidence(ratios))
    assert Legacy(size=2, world_size=8).group == 2
    assert micro.z0.tolist() == [6.0, 6.0, 0.0, 0.0]
    assert point.z0.tolist() == [6.0 / 8, 6.0 / 8, 0.0, 0.0]
    assert point.raw == pytest.approx(micro.raw / 8) and point.stderr == pytest.approx(micro.stderr / 8)
    assert point.clamped == micro.clamped == 0.5


def test_zero_is_zero() -> None:
    assert Zero().estimate(evidence([5.0])) == ReferencePoint(z0=torch.zeros(()))
    assert Zero().completions is Completions.NONE


STEPS = [
    ([1.0, 3.0, -2.0], [True, True, False]),
    ([4.0, 0.5, -6.0, -1.0], [True, False, False, False]),
    ([2.0, 2.5], [False, False]),
    ([-8.0], [True]),
]


def run(estimator: RunningMean, steps: Sequence[tuple[list[float], list[bool]]], state: State = ()) -> ReferencePoint:
    """The last of the reference points over these steps."""
    assert steps
    for ratios, desirable in steps:
        point = estimator.estimate(evidence(ratios, desirable), state)
        state = point.state
    return point


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_the_running_mean_is_the_mean_of_all_so_far(last: int) -> None:
    seen = [(r, up) for ratios, labels in STEPS[:last] for r, up in zip(ratios, labels, strict=True)]
    point = run(RunningMean(), STEPS[:last])
    assert point.z0.ndim == 0 and point.z0.item() == pytest.approx(point.raw)
    assert point.raw == pytest.approx(statistics.mean(r for r, _ in seen))
    by_class = run(RunningMean(by_class=True), STEPS[:last])
    means = [statistics.mean(r for r, up in seen if up is label) for label in (True, False)]
    assert by_class.raw == pytest.approx(statistics.mean(means))


def test_the_running_mean_forgets_by_its_decay() -> None:
    weights = [0.5 ** (len(STEPS) - 1 - number) for number, (ratios, _) in enumerate(STEPS) for _ in ratios]
    seen = [(r, up) for ratios, labels in STEPS for r, up in zip(ratios, labels, strict=True)]

    def mean(labels: tuple[bool, ...]) -> float:
        chosen = [(weight, r) for weight, (r, up) in zip(weights, seen, strict=True) if up in labels]
        return sum(weight * r for weight, r in chosen) / sum(weight for weight, _ in chosen)

    assert run(RunningMean(decay=0.5), STEPS).raw == pytest.approx(mean((True, False)))
    assert run(RunningMean(decay=0.5, by_class=True), STEPS).raw == pytest.approx((mean((True,)) + mean((False,))) / 2)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("label", [False, True])
def test_a_class_never_seen_does_not_count_in_the_running_mean(by_class: bool, label: bool) -> None:
    point = run(RunningMean(by_class=by_class), [([1.0, 3.0], [label] * 2), ([8.0], [label])])
    assert point.raw == pytest.approx(4.0)


def test_by_class_does_not_depend_on_the_class_sizes() -> None:
    few = run(RunningMean(by_class=True), [([4.0, -1.0], [True, False])])
    many = run(RunningMean(by_class=True), [([4.0] + [-1.0] * 9, [True] + [False] * 9)])
    assert few.raw == pytest.approx(many.raw) == pytest.approx(1.5)


def test_the_running_mean_goes_on_from_its_state() -> None:
    estimator = RunningMean(decay=0.9, by_class=True)
    half = run(estimator, STEPS[:2])
    assert len(half.state) == 6 and all(isinstance(number, float) for number in half.state)
    resumed, whole = run(estimator, STEPS[2:], tuple(half.state)), run(estimator, STEPS)
    assert (resumed.raw, resumed.state) == (whole.raw, whole.state)


def test_the_running_mean_is_clamped_only_where_asked_and_remembers_what_was_below() -> None:
    below = [([-4.0, -2.0], [True, False])]
    assert run(RunningMean(), below).z0.item() == -3.0
    point = run(RunningMean(clamp=True), below)
    assert (point.z0.item(), point.raw, point.clamped) == (0.0, -3.0, 1.0)
    further = RunningMean(clamp=True).estimate(evidence([9.0, 9.0], [True, False]), point.state)
    assert (further.z0.item(), further.clamped) == (3.0, 0.0)


def test_the_error_of_the_running_mean_shrinks_with_all_that_it_has_seen() -> None:
    step = ([1.0, 3.0, -2.0, 4.0], [True, False, True, False])
    first, fourth = run(RunningMean(), [step]), run(RunningMean(), [step] * 4)
    assert run(RunningMean(), STEPS[3:]).stderr == 0.0, "one log-ratio has no spread"
    assert first.stderr == pytest.approx(stderr(step[0])) and fourth.stderr == pytest.approx(first.stderr / 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Microbatch(size=1), "at least 2"),
        (lambda: Legacy(size=1, world_size=8), "at least 2"),
        (lambda: Legacy(size=4, world_size=0), "world_size is 0"),
        (lambda: RunningMean(decay=0.0), "decay is 0"),
        (lambda: RunningMean(decay=1.1), "decay is 1.1"),
        (lambda: Sampled(samples=0, max_new_tokens=8), "at least 1"),
        (lambda: Sampled(samples=4, max_new_tokens=0), "at least 1"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Estimator], words: str) -> None:
    with pytest.raises(LabError, match=words):
        make()


@pytest.mark.parametrize("decay", [1.0, 0.7])
@pytest.mark.parametrize("by_class", [False, True])
def test_the_error_of_the_running_mean_is_how_far_it_strays(decay: float, by_class: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([True] * 2 + [False] * 18)
    points = []
    for _ in range(600):
        state: State = ()
        for _ in range(5):
            ratios = torch.randn(20, generator=draw)
            point = RunningMean(decay=decay, by_class=by_class).estimate(Evidence(ratios, labels), state)
            state = point.state
        points.append(point)
    strays = statistics.stdev(point.raw for point in points)
    assert statistics.mean(point.stderr for point in points) == pytest.approx(strays, rel=0.1)
