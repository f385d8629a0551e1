"""What is in a table of examples, in numbers: classes, groups, repeated texts, lengths, flips, prompts, pairs."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from kto_lab.errors import LabError
from kto_lab.feedback.pairs import PairNoise, codes, given_pairs, make_pairs, pair_noise
from kto_lab.losses.weighting import Balanced, Deployment, Weights

COLUMNS = ["group", "desirable", "desirable_clean"]
# Only which of them are equal counts.
TEXTS = ["prompt_id", "completion"]
# lambda_D n_D / (lambda_U n_U): the ends of the paper's range, and in between a run's default target.
TARGETS = (1.0, 1.25, 1.5)
LOWEST, USUAL, HIGHEST = TARGETS


@dataclass(frozen=True)
class Classes:
    """How many examples there are of each class.

    Attributes:
        examples: of both classes.
        desirable: n_D.
        undesirable: n_U.
        share: n_D / examples.
        ratio: n_D / n_U; None where n_U is 0.
    """

    examples: int
    desirable: int
    undesirable: int
    share: float
    ratio: float | None


@dataclass(frozen=True)
class Repeats:
    """Texts (a prompt with its completion, compared exactly) that more than one example has.

    Attributes:
        texts: different texts.
        repeated: texts of several examples.
        one_label: repeated texts whose examples agree.
        contradicting: repeated texts with thumbs both up and down.
        spare: examples beyond the first of their text.
    """

    texts: int
    repeated: int
    one_label: int
    contradicting: int
    spare: int


@dataclass(frozen=True)
class Prompts:
    """Prompts by the classes of their completions; a prompt with one class gives no pair."""

    prompts: int
    both: int
    only_desirable: int
    only_undesirable: int


@dataclass(frozen=True)
class Given:
    """Pairs that were given as such.

    Attributes:
        whole: pairs that are still pairs.
        agreeing: pairs whose halves now have the same thumb.
        alone: pairs that lack a half.
        won_and_lost: answers that won one pair and lost another: two opposite thumbs for losses of single thumbs.
    """

    whole: int
    agreeing: int
    alone: int
    won_and_lost: int


@dataclass(frozen=True)
class Lengths:
    """Quartiles of completion lengths, in characters."""

    least: float
    lower: float
    median: float
    upper: float
    most: float


@dataclass(frozen=True)
class Flips:
    """Labels against clean labels.

    Attributes:
        kept_up: clean desirable, label desirable.
        flipped_down: clean desirable, label undesirable.
        flipped_up: clean undesirable, label desirable.
        kept_down: clean undesirable, label undesirable.
        rate_down: P(label undesirable | clean desirable); None where no example is clean desirable.
        rate_up: P(label desirable | clean undesirable); None where no example is clean undesirable.
    """

    kept_up: int
    flipped_down: int
    flipped_up: int
    kept_down: int
    rate_down: float | None
    rate_up: float | None


@dataclass(frozen=True)
class Description:
    """A table, or one split of it, in numbers.

    Attributes:
        classes: counts of all examples.
        groups: counts of each group, the largest first.
        repeats: texts that occur more than once.
        prompts: prompts by the classes of their completions.
        pairs: how many pairs a loss of pairs gets.
        pair_noise: how these agree with the clean labels.
        given: what became of the pairs that were given.
        lengths: the lengths of completions under "desirable" and "undesirable"; None for a class without examples.
        flips: labels against clean labels.
    """

    classes: Classes
    groups: dict[str, Classes]
    repeats: Repeats
    prompts: Prompts
    pairs: int
    pair_noise: PairNoise
    given: Given
    lengths: dict[str, Lengths | None]
    flips: Flips


@dataclass(frozen=True)
class Advice:
    """Weights that bring lambda_D n_D / (lambda_U n_U) to a target, and the override that sets them."""

    target: float
    lambda_desirable: float
    lambda_undesirable: float
    override: str


@dataclass(frozen=True)
class Balance:
    """Recommended class weights, by the training counts and by the ratio that deployment will see.

    Attributes:
        unweighted: n_D / n_U, the ratio under equal weights.
        range: the paper's range of lambda_D n_D / (lambda_U n_U).
        training: weights at each of TARGETS.
        recommended: the entry of `training` in the middle of the range.
        deployment_share: share of thumbs up that deployment will see.
        importance: importance weights, which make the training data stand for deployment.
        recommended_for_deployment: `importance` where it lies within the range, else weights at the nearer end.
    """

    unweighted: float
    range: tuple[float, float]
    training: list[Advice]
    recommended: Advice
    deployment_share: float
    importance: Advice
    recommended_for_deployment: Advice


def describe(table: Dataset) -> Description:
    """A table in numbers. The table must have at least one example."""
    frame = table.select_columns(COLUMNS).to_pandas()
    for column in TEXTS:
        frame[column] = codes(table, column)
    pairs = pairs_of(table)
    groups = {str(name): _classes(part["desirable"]) for name, part in frame.groupby("group")}
    return Description(
        classes=_classes(frame["desirable"]),
        groups=dict(sorted(groups.items(), key=lambda item: (-item[1].examples, item[0]))),
        repeats=_repeats(frame),
        prompts=_prompts(frame),
        pairs=len(pairs),
        pair_noise=pair_noise(pairs, table["desirable_clean"][:]),
        given=_given(table),
        lengths={name: _quartiles(values) for name, values in lengths_by_class(table).items()},
        flips=_flips(frame),
    )


def lengths_by_class(table: Dataset) -> dict[str, NDArray[np.int64]]:
    """Characters of every desirable and of every undesirable completion."""
    completions = table.select_columns(["completion"]).with_format("arrow")[:]["completion"]
    lengths = pc.utf8_length(completions).to_numpy().astype(np.int64)
    desirable = np.array(table["desirable"][:], dtype=bool)
    return {"desirable": lengths[desirable], "undesirable": lengths[~desirable]}


def _given(table: Dataset) -> Given:
    found = given_pairs(table)
    texts = list(zip(*(codes(table, column).tolist() for column in TEXTS), strict=True)) if found.pairs else []
    won, lost = ({texts[pair[side]] for pair in found.pairs.values()} for side in (0, 1))
    return Given(len(found.pairs), found.agreeing, found.alone, len(won & lost))


def pairs_of(table: Dataset) -> NDArray[np.int64]:
    """The pairs of a table, shape (pairs, 2), possibly empty. Their number does not depend on the seed."""
    try:
        return make_pairs(table, seed=0)
    except LabError:
        return np.empty((0, 2), dtype=np.int64)


def advise(classes: Classes, deployment_share: float) -> Balance | None:
    """Weights for these counts; None where a class is missing.

    A class pulls on the policy with the sum of its weights. The paper lets both classes pull alike, or the desirable
    one up to half as much again. Source: Ethayarajh et al. 2024, arXiv 2402.01306, equation 8: 1 to 4/3, in the later
    version 1 to 3/2. For deployment: importance weights, see `kto_lab.losses.weighting.Deployment`. Their ratio
    lambda_D n_D / (lambda_U n_U) is that of deployment, which may lie outside the range; the rarer class then hardly
    counts.

    Args:
        classes: the counts that are trained on.
        deployment_share: share of thumbs up in deployment, in (0, 1).

    Raises:
        LabError: the share is not between 0 and 1.
    """
    if not classes.desirable or not classes.undesirable:
        return None
    if not isinstance(deployment_share, int | float) or not 0 < deployment_share < 1:
        raise LabError(
            f"deployment_ratio is {deployment_share}; it is the share of thumbs up that deployment will see and must "
            "be above 0 and below 1, such as 0.8."
        )

    def at(target: float) -> Advice:
        return _advice(target, Balanced(target).weights(classes.desirable, classes.undesirable))

    ratio = deployment_share / (1 - deployment_share)
    importance = _advice(ratio, Deployment(deployment_share).weights(classes.desirable, classes.undesirable))
    nearest = min(max(ratio, LOWEST), HIGHEST)
    return Balance(
        unweighted=classes.desirable / classes.undesirable,
        range=(LOWEST, HIGHEST),
        training=[at(target) for target in TARGETS],
        recommended=at(USUAL),
        deployment_share=deployment_share,
        importance=importance,
        recommended_for_deployment=importance if nearest == ratio else at(nearest),
    )


def _advice(target: float, weights: Weights) -> Advice:
    override = (
        f"weighting@loss.weighting=fixed loss.weighting.lambda_desirable={weights.desirable:.4g} "
        f"loss.weighting.lambda_undesirable={weights.undesirable:.4g}"
    )
    return Advice(target, weights.desirable, weights.undesirable, override)


def _classes(desirable: "pd.Series[bool]") -> Classes:
    up, down = int(desirable.sum()), int((~desirable).sum())
    return Classes(up + down, up, down, share=up / (up + down), ratio=up / down if down else None)


def _repeats(frame: pd.DataFrame) -> Repeats:
    texts = frame.groupby(["prompt_id", "completion"], sort=False)["desirable"].agg(["size", "nunique"])
    repeated = texts[texts["size"] > 1]
    contradicting = int((repeated["nunique"] > 1).sum())
    return Repeats(
        texts=len(texts),
        repeated=len(repeated),
        one_label=len(repeated) - contradicting,
        contradicting=contradicting,
        spare=len(frame) - len(texts),
    )


def _prompts(frame: pd.DataFrame) -> Prompts:
    share = frame.groupby("prompt_id")["desirable"].mean()
    up, down = int((share == 1).sum()), int((share == 0).sum())
    return Prompts(len(share), both=len(share) - up - down, only_desirable=up, only_undesirable=down)


def _quartiles(values: NDArray[np.int64]) -> Lengths | None:
    return Lengths(*map(float, np.percentile(values, [0, 25, 50, 75, 100]))) if values.size else None


def _flips(frame: pd.DataFrame) -> Flips:
    def count(clean: bool, label: bool) -> int:
        return int(((frame["desirable_clean"] == clean) & (frame["desirable"] == label)).sum())

    up, down = (count(True, True), count(True, False)), (count(False, True), count(False, False))
    return Flips(
        *up,
        *down,
        rate_down=up[1] / sum(up) if sum(up) else None,
        rate_up=down[0] / sum(down) if sum(down) else None,
    )
