"""What the policy says: answers to held-out prompts, checked by program, base and trained side by side.

Greedy answers show what a person would get; answers sampled at temperature 1 measure how far the policy has moved.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

from kto_lab import narration
from kto_lab.feedback.checkers import metric_name, score_answer
from kto_lab.hashing import content_hash
from kto_lab.models.adapters import Policy
from kto_lab.models.generate import Answer, generate
from kto_lab.models.tokens import Encoder, Prompt
from kto_lab.ranks import ALONE, Ranks
from kto_lab.statistics import Estimate, mean_interval


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer to a held-out prompt and its scores.

    Attributes:
        prompt_id: the identity of the prompt.
        group: what results are broken down by.
        prompt: the prompt.
        answer: the answer's text, without its reasoning.
        n_tokens: tokens of reasoning and answer, the end not counted.
        finished: whether it ended by itself.
        scores: metric to score, for each by which the answer was judged: first the checks, if the prompt has any, then
            the judge that `evaluation.judge` names, if there is one and the answer is not too long for it.
        desirable: where it has none, a held-out answer to the prompt that got a thumb up, for a person to compare with;
            None where there is none.
        undesirable: the same with a thumb down.
        reasoning: what the policy thought before the answer, where its chat template has markup for that; not judged.
    """

    prompt_id: str
    group: str
    prompt: Prompt
    answer: str
    n_tokens: int
    finished: bool
    scores: dict[str, float] = field(default_factory=dict)
    desirable: str | None = None
    undesirable: str | None = None
    reasoning: str = ""

    @property
    def score(self) -> float | None:
        """By the checks, or else by the judge; None where nothing judged it."""
        return next(iter(self.scores.values()), None)


def select_prompts(table_test: Dataset, prompts: int) -> list[int]:
    """Rows of the held-out prompts to use: one per prompt, groups as even as they go, and the same in every run.

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
    batch_tokens: int,
    seed: int,
    advance: Callable[[int], None] = lambda answers: None,
    ranks: Ranks = ALONE,
) -> list[ScoredAnswer]:
    """Greedy answers to held-out prompts, scored by the checks that the prompts carry.

    Args:
        model: the policy; its train or eval mode is kept.
        encoder: the tokenizer's encoder.
        table_test: the held-out part of a table of examples.
        prompts: how many prompts; see `select_prompts`.
        max_new_tokens: where an unfinished answer is cut.
        batch_tokens: tokens of prompts and answers held at once; see `generate`.
        seed: passed to the sampler, which needs none while it is greedy.
        advance: called with the number of answers each time some are done.
        ranks: share the prompts; all return all answers.
    """
    chosen = table_test.select(select_prompts(table_test, prompts))
    encoder.check(chosen)
    rows = list(chosen)
    unchecked = {row["prompt_id"] for row in rows if not row["checks"]}
    thumbs = {up: held_out_answers(table_test, unchecked, desirable=up) for up in (True, False)}
    asked = [row["prompt"] for row in rows]
    how = {"max_new_tokens": max_new_tokens, "batch_tokens": batch_tokens, "seed": seed}
    found = _answered(model, encoder, asked, ranks, advance=advance, **how)
    cut = sum(bool(answer.reasoning) and not answer.text and not answer.finished for answer in found)
    if cut:
        narration.say(f"    {cut} of {len(found)} answers were cut in their reasoning: raise evaluation.max_new_tokens")
    return [
        ScoredAnswer(
            prompt_id=row["prompt_id"],
            group=row["group"],
            prompt=row["prompt"],
            answer=answer.text,
            n_tokens=answer.length,
            finished=answer.finished,
            scores={metric_name(row["checks"]): score_answer(row["checks"], answer.text)} if row["checks"] else {},
            desirable=thumbs[True].get(row["prompt_id"]),
            undesirable=thumbs[False].get(row["prompt_id"]),
            reasoning=answer.reasoning,
        )
        for row, answer in zip(rows, found, strict=True)
    ]


def held_out_answers(table_test: Dataset, prompt_ids: Collection[str], *, desirable: bool) -> dict[str, str]:
    """For each of these prompts that has one, a held-out answer with such a (clean) thumb: the first in the table."""
    columns = (table_test[name][:] for name in ("prompt_id", "desirable_clean", "completion"))
    found: dict[str, str] = {}
    for identity, up, completion in zip(*columns, strict=True):
        if up == desirable and identity in prompt_ids:
            found.setdefault(identity, completion)
    return found


def scores_of(answers: Sequence[ScoredAnswer]) -> dict[str, dict[str, float]]:
    """Metric to prompt_id to score: what each answer was judged by, `answer_length` in tokens, and `finished`."""
    found: dict[str, dict[str, float]] = {}
    for answer in answers:
        outcomes = {**answer.scores, "answer_length": float(answer.n_tokens), "finished": answer.finished}
        for metric, score in outcomes.items():
            found.setdefault(metric, {})[answer.prompt_id] = score
    return found


def side_by_side(base: Sequence[ScoredAnswer], trained: Sequence[ScoredAnswer]) -> list[dict[str, Any]]:
    """Answers of two policies to the same prompts as rows of plain values, for a person to read.

    A row has `group`, `prompt` (of a conversation, its last turn), `base`, `base_score` (by the checks, or else by the
    judge), `trained`, `trained_score`, and where nothing checks them `thumbs_up` and `thumbs_down`, held-out answers
    with such a thumb.

    Raises:
        ValueError: the answers are not to the same prompts in the same order.
    """
    if [answer.prompt_id for answer in base] != [answer.prompt_id for answer in trained]:
        raise ValueError("base and trained answers are not to the same prompts in the same order")
    return [
        {
            "group": before.group,
            "prompt": before.prompt if isinstance(before.prompt, str) else before.prompt[-1]["content"],
            "base": before.answer,
            "base_score": before.score,
            "trained": after.answer,
            "trained_score": after.score,
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
    batch_tokens: int,
    seed: int,
    advance: Callable[[int], None] = lambda answers: None,
    ranks: Ranks = ALONE,
) -> list[tuple[Prompt, tuple[int, ...]]]:
    """Prompts, each with the tokens of an answer at temperature 1, to be scored by policy and reference.

    Arguments are those of `answer_prompts`; `seed` seeds the sampling. See `sampled_kl`.
    """
    asked = [table_test[row]["prompt"] for row in select_prompts(table_test, prompts)]
    how = {"max_new_tokens": max_new_tokens, "batch_tokens": batch_tokens, "seed": seed}
    found = _answered(model, encoder, asked, ranks, advance=advance, temperature=1.0, **how)
    return [(prompt, answer.tokens) for prompt, answer in zip(asked, found, strict=True)]


def _answered(
    model: Policy,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    ranks: Ranks,
    *,
    advance: Callable[[int], None],
    **how: Any,
) -> list[Answer]:
    """An answer to each prompt; each process gets its share of the short and of the long ones. `how`: of `generate`."""
    order = sorted(range(len(prompts)), key=lambda place: len(encoder.prompt(prompts[place])))
    own = generate(model, encoder, [prompts[place] for place in ranks.share(order)], advance=advance, **how)
    found = ranks.joined([answer for (answer,) in own])
    if len(own) < len(found):
        advance(len(found) - len(own))
    by_place = dict(zip(order, found, strict=True))
    return [by_place[place] for place in range(len(prompts))]


def sampled_kl(policy_logps: ArrayLike, reference_logps: ArrayLike) -> Estimate:
    """KL(policy || reference) in nats per answer, estimated on the policy's own samples.

    The mean of log policy(y|x) - log reference(y|x) over y sampled from the policy is unbiased; single terms, and the
    mean of few, may be below zero. Answers are cut at the token limit, so it is the divergence up to there.

    Args:
        policy_logps: (N,) summed log-probabilities of the sampled answers under the policy.
        reference_logps: (N,) the same under the reference.
    """
    return mean_interval(np.asarray(policy_logps, dtype=np.float64) - np.asarray(reference_logps, dtype=np.float64))
