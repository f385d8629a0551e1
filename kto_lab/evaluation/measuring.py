"""What a metric is, and how scores of single prompts become a policy's numbers and the difference of two policies.

A metric of one's own is a `Metric` with a function that scores prompts; `kto_lab.evaluation.metrics` says how it is
added. What computes results imports this module and not that one, so that a label there changes no run.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kto_lab.errors import LabError
from kto_lab.statistics import (
    Bounds,
    Estimate,
    mean_interval,
    paired_difference,
    proportion_interval,
    smallest_detectable_difference,
)

if TYPE_CHECKING:
    from kto_lab.evaluation.answers import ScoredAnswer

Better: TypeAlias = Literal["up", "down"] | None
# Metric to prompt_id to score. A score of yes or no is a bool, and then the metric is a share.
Scores: TypeAlias = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class PolicyResults:
    """What one policy did on the held-out prompts: what the function of a metric is given.

    Attributes:
        answers: greedy answers, one per prompt; empty where `evaluation.prompts` is 0.
        prompt_ids: (N,) the prompt of each held-out example. Examples are at most `evaluation.reward_examples`; there
            are none where a model is evaluated alone, since then there is no reference.
        desirable: (N,) their thumbs before any corruption.
        logps: (N,) log pi(y|x) of the example under the policy, summed over completion tokens, nats.
        reference_logps: (N,) the same under the reference. For the policy before training they are `logps`.
        rewards: (N,) implicit rewards, beta (log pi - log pi_ref).
    """

    answers: "Sequence[ScoredAnswer]"
    prompt_ids: Sequence[str]
    desirable: NDArray[np.bool_]
    logps: NDArray[np.float64]
    reference_logps: NDArray[np.float64]
    rewards: NDArray[np.float64]


# From prompt_id to score, for the prompts that have one.
Measure: TypeAlias = Callable[[PolicyResults], Mapping[str, float]]


@dataclass(frozen=True)
class Metric:
    """A metric: what it is called, how it is read, and for one of your own how it is computed.

    Attributes:
        name: in the record, the columns of a report, W&B and studies; letters, digits and "_".
        about: what it is, in a sentence.
        label: for a reader; "" for the name with blanks for "_".
        unit: shown behind the label; "" where it has none.
        better: "up" where more is better, "down" where less is, None where neither is. What has no better side is
            never bold, and nothing can be chosen by it.
        bounds: its least and largest value; None for a side where it has none.
        decimals: shown; None for as many as its interval allows.
        per_prompt: whether each held-out prompt has a score of it, so that it can choose among settings.
        in_table: whether the table at the end of a run shows it.
        by_group: whether that run also shows it broken down by group.
        measure: scores prompts, one policy at a time; None where the lab computes the metric by itself. A score that is
            True or False makes it a share with Wilson's interval. A prompt that it leaves out has no score.
    """

    name: str
    about: str = ""
    label: str = ""
    unit: str = ""
    better: Better = None
    bounds: tuple[float | None, float | None] = (None, None)
    decimals: int | None = None
    per_prompt: bool = True
    in_table: bool = True
    by_group: bool = False
    measure: Measure | None = None

    def __post_init__(self) -> None:
        """Refuse what would only show in a report."""
        if self.better not in ("up", "down", None):
            raise LabError(f'Metric {self.name}: better is {self.better!r}; it is "up", "down" or None.')
        low, high = self.bounds
        if low is not None and high is not None and low >= high:
            raise LabError(f"Metric {self.name}: its bounds are {low} and {high}; the lower one comes first.")

    @property
    def title(self) -> str:
        """Its label, or what stands in for one."""
        return self.label or self.name.replace("_", " ")

    def may_be(self, score: float) -> bool:
        """Whether a score lies within the bounds."""
        low, high = self.bounds
        return (low is None or score >= low) and (high is None or score <= high)

    @property
    def range(self) -> Bounds | None:
        """Its bounds where it has both; within them its intervals stay."""
        low, high = self.bounds
        return None if low is None or high is None else (low, high)

    def as_dict(self) -> dict[str, Any]:
        """What is not as by default, as plain values; a record holds it, and `from_dict` takes it back."""
        kept = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("name", "measure")}
        defaults = {one.name: one.default for one in fields(self)}
        return {name: value for name, value in kept.items() if value != defaults[name]}

    @classmethod
    def from_dict(cls, name: str, node: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(name=name, **{**node, "bounds": tuple(node.get("bounds", (None, None)))})


@dataclass(frozen=True)
class Comparison:
    """One metric of two policies on the same prompts.

    Attributes:
        base: the policy before training.
        trained: the policy after it.
        difference: trained - base, paired by prompt.
        detectable: the smallest true difference that this many prompts would show in 80 of 100 experiments, at the
            variance that was seen; None where no prompt's score changed.
    """

    base: Estimate
    trained: Estimate
    difference: Estimate
    detectable: float | None


@dataclass(frozen=True)
class PromptComparison:
    """Metrics by name over all prompts, and the same for each group."""

    overall: dict[str, Comparison]
    groups: dict[str, dict[str, Comparison]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for a record."""
        return asdict(self)


def find_metrics(names: Iterable[str]) -> list[Metric]:
    """The metrics that `evaluation.metrics` names.

    Args:
        names: dotted names of `Metric` objects, such as "my_metrics.EXCLAMATIONS".

    Raises:
        LabError: a name leads to none, the metric has no function, or two have one name.
    """
    found: dict[str, Metric] = {}
    for name in names:
        metric = _imported(name)
        if not isinstance(metric, Metric):
            raise LabError(
                f"evaluation.metrics names {name}, which is a {type(metric).__name__}. It must be a "
                "kto_lab.evaluation.measuring.Metric."
            )
        if metric.measure is None:
            raise LabError(
                f"evaluation.metrics names {name}, which has no function: the lab computes it by itself, or measure= "
                "is missing. Take it out of evaluation.metrics, or give it measure=."
            )
        if not metric.name.isidentifier():
            raise LabError(f"{name}: the name {metric.name!r} is not made of letters, digits and '_'. Rename it.")
        if metric.name in found:
            raise LabError(f"evaluation.metrics names two metrics called {metric.name}. Rename one, or leave it out.")
        found[metric.name] = metric
    return list(found.values())


def own_scores(metrics: Iterable[Metric], results: PolicyResults) -> dict[str, dict[str, float]]:
    """The scores that the functions of metrics give a policy.

    Args:
        metrics: with a function each, from `find_metrics`.
        results: of the policy.

    Returns:
        Metric to prompt_id to score; a metric without any score is left out.

    Raises:
        LabError: a function gives what is no finite number of a held-out prompt, or one outside of the bounds.
    """
    prompts = {answer.prompt_id for answer in results.answers} | set(results.prompt_ids)
    found: dict[str, dict[str, float]] = {}
    for metric in metrics:
        assert metric.measure is not None
        given = metric.measure(results)
        if not isinstance(given, Mapping):
            raise LabError(
                f"The function of the metric {metric.name} returns a {type(given).__name__}; it must return a mapping "
                "from prompt_id to score."
            )
        for prompt, score in given.items():
            if prompt not in prompts:
                raise LabError(f"The metric {metric.name} scores {prompt!r}, which is no held-out prompt's prompt_id.")
            if not isinstance(score, int | float | np.number | np.bool_) or not math.isfinite(score):
                raise LabError(
                    f"The metric {metric.name} gives the prompt {prompt} {score!r}, which is no finite number."
                )
            if not metric.may_be(float(score)):
                raise LabError(
                    f"The metric {metric.name} gives the prompt {prompt} {score!r}, which is outside of its bounds, "
                    f"{metric.bounds}. Mend its function, or declare other bounds."
                )
        if given:
            found[metric.name] = {prompt: _plain(score) for prompt, score in given.items()}
    return found


def summarise(scores: Scores, bounds: Mapping[str, Bounds]) -> dict[str, Estimate]:
    """Each metric over the prompts that have it; its interval stays within its bounds, where it has such."""
    return {metric: _estimate(list(by_prompt.values()), bounds.get(metric)) for metric, by_prompt in scores.items()}


def compare(
    base: Scores, trained: Scores, groups: Mapping[str, str], bounds: Mapping[str, Bounds], *, seed: int
) -> PromptComparison:
    """Compare two policies by the scores of single prompts.

    Args:
        base: of the policy before training.
        trained: of the policy after it.
        groups: prompt_id to what results are broken down by.
        bounds: metric to its least and largest value, where it has such; a policy's interval stays within them.
        seed: seeds the bootstraps.

    Returns:
        For each metric both policies and their paired difference, over the prompts where both have a score: over all of
        them and over each group's.
    """
    names = sorted({groups[prompt] for by_prompt in base.values() for prompt in by_prompt})
    return PromptComparison(
        overall=_compare(base, trained, bounds, seed),
        groups={
            name: _compare(_of_group(base, groups, name), _of_group(trained, groups, name), bounds, seed)
            for name in names
        },
    )


def _of_group(scores: Scores, groups: Mapping[str, str], name: str) -> dict[str, dict[str, float]]:
    return {
        metric: {prompt: score for prompt, score in by_prompt.items() if groups[prompt] == name}
        for metric, by_prompt in scores.items()
    }


def _compare(base: Scores, trained: Scores, bounds: Mapping[str, Bounds], seed: int) -> dict[str, Comparison]:
    found = {}
    for metric, by_prompt in base.items():
        after_by_prompt = trained.get(metric, {})
        both = [prompt for prompt in by_prompt if prompt in after_by_prompt]
        if not both:
            continue
        before, after = ([scores[prompt] for prompt in both] for scores in (by_prompt, after_by_prompt))
        changes = np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64)
        found[metric] = Comparison(
            base=_estimate(before, bounds.get(metric)),
            trained=_estimate(after, bounds.get(metric)),
            difference=paired_difference(
                np.array(before, dtype=np.float64), np.array(after, dtype=np.float64), seed=seed
            ),
            detectable=smallest_detectable_difference(len(both), float(changes.var(ddof=1)) if len(both) > 1 else 0.0),
        )
    return found


def _estimate(values: Sequence[float], bounds: Bounds | None) -> Estimate:
    if all(isinstance(value, bool) for value in values):
        return proportion_interval(int(sum(values)), len(values))
    return mean_interval(np.array(values, dtype=np.float64), bounds)


def _plain(score: Any) -> float:
    """A score as JSON holds it; yes or no stays that."""
    return bool(score) if isinstance(score, bool | np.bool_) else float(score)


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    if not module:
        raise LabError(
            f"evaluation.metrics names {name!r}; a name is that of a module and of a Metric in it, as "
            "my_metrics.EXCLAMATIONS."
        )
    try:
        return getattr(import_module(module), attribute)
    # A module of one's own fails in any way.
    except Exception as error:
        raise LabError(
            f"evaluation.metrics names {name}, which cannot be imported: {error}. Put the folder of {module} on "
            "PYTHONPATH, or mend the name."
        ) from error
