"""What the policy says: answers to held-out prompts, checked by program, base and trained side by side.

Greedy answers show what a person would get; answers sampled at temperature 1 measure how far the policy has moved.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

from kto_lab.feedback.checkers import metric_name, score_answer
from kto_lab.hashing import content_hash
from kto_lab.models.adapters import Policy
from kto_lab.models.generate import generate
from kto_lab.models.tokens import Encoder, Prompt
from kto_lab.statistics import (
    Estimate,
    mean_interval,
    paired_difference,
    proportion_interval,
    smallest_detectable_difference,
)

# Outcomes that are yes or no for each answer; the others are measured on a scale.
SHARES = ("pass_rate", "finished")


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer to a held-out prompt and its score.

    Attributes:
        prompt_id: the identity of the prompt.
        group: what results are broken down by.
        prompt: the prompt.
        answer: the answer's text.
        n_tokens: tokens of the answer, its end not counted.
        finished: whether it ended by itself.
        metric: what the score is ("pass_rate" or "sentiment"), None where the prompt has no checks.
        score: the score, None where the prompt has no checks.
        desirable: where it has none, a held-out answer to the prompt that got a thumb up, for a person to compare with;
            None where there is none.
        undesirable: the same with a thumb down.
        judge_score: of the model that `evaluation.judge` names, None where there is none or the answer is too long.
    """

    prompt_id: str
    group: str
    prompt: Prompt
    answer: str
    n_tokens: int
    finished: bool
    metric: str | None
    score: float | None
    desirable: str | None = None
    undesirable: str | None = None
    judge_score: float | None = None

    def outcomes(self) -> dict[str, float]:
        """Each metric's value for this answer."""
        scored = {} if self.metric is None or self.score is None else {self.metric: self.score}
        if self.judge_score is not None:
            scored["judge_score"] = self.judge_score
        return {**scored, "answer_length": float(self.n_tokens), "finished": float(self.finished)}


@dataclass(frozen=True)
class Comparison:
    """One metric of two policies on the same prompts.

    Attributes:
        base: the policy before training.
        trained: the policy after it.
        difference: trained - base, paired by prompt.
        detectable: the smallest true difference that this many prompts would show in 80 of 100 experiments, at the
            variance that was seen; None where no answer changed.
    """

    base: Estimate
    trained: Estimate
    difference: Estimate
    detectable: float | None


@dataclass(frozen=True)
class AnswerComparison:
    """Metrics by name for all prompts, and the same for each group."""

    overall: dict[str, Comparison]
    groups: dict[str, dict[str, Comparison]]

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for a record."""
        return asdict(self)


def select_prompts(table_test: Dataset, prompts: int) -> list[int]:
    """Rows of the held-out prompts to use: one a prompt, groups as even as they go, and the same in every run.

    Prompts are ordered by a hash within their group and taken from the groups in turn, so a smaller selection is the
    start of a larger one.

    Args:
        table_test: the held-out part of a table of examples.
        prompts: how many, or fewer where the table has fewer.
    """
    first: dict[str, int] = {}
    for row, identity in enumerate(table_test["prompt_id"][:]):
        first.setdefault(identity, row)
    groups = table_test["group"][:]
    by_group: dict[str, list[tuple[str, int]]] = {}
    for identity, row in first.items():
        by_group.setdefault(groups[row], []).append((content_hash("evaluation", identity), row))
    turns = [(turn, key, row) for part in by_group.values() for turn, (key, row) in enumerate(sorted(part))]
    return [row for _, _, row in sorted(turns)[:prompts]]


def answer_prompts(
    model: Policy,
    encoder: Encoder,
    table_test: Dataset,
    *,
    prompts: int,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None] = lambda answers: None,
) -> list[ScoredAnswer]:
    """Greedy answers to held-out prompts, scored by the checks that the prompts carry.

    Args:
        model: the policy; its train or eval mode is kept.
        encoder: the tokenizer's encoder.
        table_test: the held-out part of a table of examples.
        prompts: how many prompts; see `select_prompts`.
        max_new_tokens: where an unfinished answer is cut.
        batch_size: answers in flight at once.
        seed: passed to the sampler, which needs none while it is greedy.
        advance: called with the number of answers each time some are done.
    """
    rows = [table_test[row] for row in select_prompts(table_test, prompts)]
    unchecked = {row["prompt_id"] for row in rows if not row["checks"]}
    thumbs = {up: held_out_answers(table_test, unchecked, desirable=up) for up in (True, False)}
    found = generate(
        model,
        encoder,
        [row["prompt"] for row in rows],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        advance=advance,
    )
    return [
        ScoredAnswer(
            prompt_id=row["prompt_id"],
            group=row["group"],
            prompt=row["prompt"],
            answer=answer.text,
            n_tokens=answer.length,
            finished=answer.finished,
            metric=metric_name(row["checks"]) if row["checks"] else None,
            score=score_answer(row["checks"], answer.text) if row["checks"] else None,
            desirable=thumbs[True].get(row["prompt_id"]),
            undesirable=thumbs[False].get(row["prompt_id"]),
        )
        for row, (answer,) in zip(rows, found, strict=True)
    ]


def held_out_answers(table_test: Dataset, prompt_ids: Collection[str], *, desirable: bool) -> dict[str, str]:
    """For each of these prompts that has one, a held-out answer with such a (clean) thumb: the first in the table."""
    columns = (table_test[name][:] for name in ("prompt_id", "desirable_clean", "completion"))
    found: dict[str, str] = {}
    for identity, up, completion in zip(*columns, strict=True):
        if up == desirable and identity in prompt_ids:
            found.setdefault(identity, completion)
    return found


def summarise_answers(answers: Sequence[ScoredAnswer]) -> dict[str, Estimate]:
    """Each metric over the answers that have it: `pass_rate`, `answer_length` in tokens, ...; see `compare_answers`."""
    return {
        metric: _estimate(metric, [found[metric] for found in map(ScoredAnswer.outcomes, answers) if metric in found])
        for metric in _metrics(answers)
    }


def compare_answers(base: Sequence[ScoredAnswer], trained: Sequence[ScoredAnswer], *, seed: int) -> AnswerComparison:
    """Compare two policies on the same prompts.

    Args:
        base: answers of the policy before training.
        trained: answers of the policy after it, to the same prompts in the same order.
        seed: seeds the bootstraps.

    Returns:
        For each metric (`pass_rate` or `sentiment`, `judge_score`, `answer_length` in tokens, `finished`) both policies
        and their paired difference, over all prompts and a group, of the prompts where both have the metric.
    """
    if [answer.prompt_id for answer in base] != [answer.prompt_id for answer in trained]:
        raise ValueError("base and trained answers are not to the same prompts in the same order")
    groups = sorted({answer.group for answer in base})
    return AnswerComparison(
        overall=_compare(base, trained, seed),
        groups={
            group: _compare([a for a in base if a.group == group], [a for a in trained if a.group == group], seed)
            for group in groups
        },
    )


def side_by_side(base: Sequence[ScoredAnswer], trained: Sequence[ScoredAnswer]) -> list[dict[str, Any]]:
    """Answers of two policies to the same prompts as rows of plain values, for a person to read.

    A row has `group`, `prompt` (of a conversation, its last turn), `base`, `base_score` (by the checks, or else by the
    judge), `trained`, `trained_score`, and where nothing checks them `thumbs_up` and `thumbs_down`, held-out answers
    with such a thumb.
    """
    return [
        {
            "group": before.group,
            "prompt": before.prompt if isinstance(before.prompt, str) else before.prompt[-1]["content"],
            "base": before.answer,
            "base_score": before.score if before.score is not None else before.judge_score,
            "trained": after.answer,
            "trained_score": after.score if after.score is not None else after.judge_score,
            "thumbs_up": before.desirable,
            "thumbs_down": before.undesirable,
        }
        for before, after in zip(base, trained, strict=True)
    ]


def sample_answers(
    model: Policy,
    encoder: Encoder,
    table_test: Dataset,
    *,
    prompts: int,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None] = lambda answers: None,
) -> list[tuple[Prompt, tuple[int, ...]]]:
    """Prompts, each with the tokens of an answer at temperature 1, to be scored by policy and reference.

    Arguments are those of `answer_prompts`; `seed` seeds the sampling. See `sampled_kl`.
    """
    rows = select_prompts(table_test, prompts)
    asked = [table_test[row]["prompt"] for row in rows]
    found = generate(
        model,
        encoder,
        asked,
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        batch_size=batch_size,
        seed=seed,
        advance=advance,
    )
    return [(prompt, answer.tokens) for prompt, (answer,) in zip(asked, found, strict=True)]


def sampled_kl(policy_logps: ArrayLike, reference_logps: ArrayLike) -> Estimate:
    """KL(policy || reference) in nats an answer, estimated on the policy's own samples.

    The mean of log policy(y|x) - log reference(y|x) over y sampled from the policy is unbiased; single terms, and the
    mean of few, may be below zero. Answers are cut at the token limit, so it is the divergence up to there.

    Args:
        policy_logps: (N,) summed log-probabilities of the sampled answers under the policy.
        reference_logps: (N,) the same under the reference.
    """
    return mean_interval(np.asarray(policy_logps, dtype=np.float64) - np.asarray(reference_logps, dtype=np.float64))


def _compare(base: Sequence[ScoredAnswer], trained: Sequence[ScoredAnswer], seed: int) -> dict[str, Comparison]:
    found = {}
    for metric in _metrics(base):
        pairs = [
            (before.outcomes()[metric], after.outcomes()[metric])
            for before, after in zip(base, trained, strict=True)
            if metric in before.outcomes() and metric in after.outcomes()
        ]
        if not pairs:
            continue
        before, after = np.array(pairs).T
        variance = float((after - before).var(ddof=1)) if len(pairs) > 1 else 0.0
        found[metric] = Comparison(
            base=_estimate(metric, before.tolist()),
            trained=_estimate(metric, after.tolist()),
            difference=paired_difference(before, after, seed=seed),
            detectable=smallest_detectable_difference(len(pairs), variance),
        )
    return found


def _metrics(answers: Sequence[ScoredAnswer]) -> list[str]:
    """The metrics that some answer has, in order of first appearance."""
    return list(dict.fromkeys(metric for answer in answers for metric in answer.outcomes()))


def _estimate(metric: str, values: Sequence[float]) -> Estimate:
    return proportion_interval(int(sum(values)), len(values)) if metric in SHARES else mean_interval(values)
