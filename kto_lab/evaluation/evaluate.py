"""Judging a policy on held-out prompts, and one policy against another.

`measure` looks at one policy and returns plain data; `compare` turns the data of two into estimates. So the base policy is
measured before training, while it is in memory, and nothing has to be loaded twice.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from kto_lab import console
from kto_lab.evaluation.answers import (
    ScoredAnswer,
    answer_prompts,
    compare_answers,
    sample_answers,
    sampled_kl,
    select_prompts,
)
from kto_lab.evaluation.lm_eval import run_lm_eval
from kto_lab.evaluation.rewards import reward_metrics
from kto_lab.evaluation.settings import Evaluation
from kto_lab.evaluation.statistics import Estimate
from kto_lab.models.adapters import Policy
from kto_lab.models.logps import score
from kto_lab.models.tokens import Encoder, Tokens


@dataclass(frozen=True)
class Measured:
    """What one policy did on the held-out prompts.

    Attributes:
        answers: greedy answers, scored.
        logps: log-probability of each held-out example that `reward_rows` names, nats.
        lm_eval: estimates by task and metric.
    """

    answers: list[ScoredAnswer]
    logps: list[float]
    lm_eval: dict[str, dict[str, Estimate]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Measured":
        """The inverse of `as_dict`."""
        return cls(
            answers=[ScoredAnswer(**answer) for answer in value["answers"]],
            logps=value["logps"],
            lm_eval={
                task: {name: Estimate(**estimate) for name, estimate in metrics.items()}
                for task, metrics in value["lm_eval"].items()
            },
        )


@dataclass(frozen=True)
class HeldOut:
    """The held-out examples, ready to be measured on.

    Attributes:
        table: the test split.
        encoder: the policy's tokenizer's.
        reward_rows: the rows whose implicit reward is measured: all of the first prompts, in the order of `select_prompts`.
        tokens: their tokens.
    """

    table: Dataset
    encoder: Encoder
    reward_rows: list[int]
    tokens: list[Tokens]

    @classmethod
    def of(cls, table: Dataset, encoder: Encoder, examples: int) -> "HeldOut":
        """At most `examples` examples of whole prompts, the same in every run."""
        members: dict[str, list[int]] = {}
        for row, identity in enumerate(table["prompt_id"]):
            members.setdefault(identity, []).append(row)
        identities = table["prompt_id"]
        rows = [row for first in select_prompts(table, len(members)) for row in members[identities[first]]][:examples]
        encoded = encoder.encode_table(table.select(rows))
        return cls(table, encoder, [rows[place] for place in encoded.kept], encoded.tokens)


def measure(
    policy: Policy,
    held_out: HeldOut,
    settings: Evaluation,
    *,
    name: str,
    folder: Path,
    token_budget: int,
    share_prompts: bool,
    seed: int,
) -> Measured:
    """Measure one policy.

    Args:
        policy: on the device to compute on; its mode is kept.
        held_out: what to measure on.
        settings: how much of it.
        name: of the policy, for progress and for lm-eval's folder.
        folder: where lm-eval's tasks are written.
        token_budget: padded tokens a batch.
        share_prompts: completions of one prompt share its row.
        seed: of what lm-eval draws.
    """
    prompts = min(settings.prompts, len(set(held_out.table["prompt_id"])))
    answers: list[ScoredAnswer] = []
    if prompts:
        with console.progress(f"{name}: answers", prompts) as advance:
            answers = answer_prompts(
                policy,
                held_out.encoder,
                held_out.table,
                prompts=prompts,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                seed=seed,
                advance=advance,
            )
    logps = score_with_progress(policy, held_out, held_out.tokens, name, token_budget, share_prompts)
    tasks: dict[str, dict[str, Estimate]] = {}
    if settings.lm_eval:
        console.say(f"    {name}: lm-eval on {', '.join(settings.lm_eval)}")
        tasks = run_lm_eval(
            policy,
            held_out.encoder.tokenizer,
            settings.lm_eval,
            table_test=held_out.table,
            folder=folder / "lm_eval",
            max_new_tokens=settings.max_new_tokens,
            limit=settings.lm_eval_limit,
            batch_size=settings.batch_size,
            num_fewshot=settings.lm_eval_fewshot,
            seed=seed,
        )
    return Measured(answers=answers, logps=logps, lm_eval=tasks)


def score_with_progress(
    policy: Policy, held_out: HeldOut, tokens: Sequence[Tokens], name: str, token_budget: int, share_prompts: bool
) -> list[float]:
    """Log-probabilities of sequences under a policy, with a progress bar."""
    if not tokens:
        return []
    with console.progress(f"{name}: rewards", len(tokens)) as advance:
        found = score(
            policy,
            tokens,
            pad_id=held_out.encoder.pad_id,
            token_budget=token_budget,
            share_prompts=share_prompts,
            advance=advance,
        )
    return found.tolist()


def draw_for_kl(policy: Policy, held_out: HeldOut, settings: Evaluation, *, seed: int) -> list[Tokens]:
    """One answer at temperature 1 to each of some held-out prompts, to be scored by policy and reference."""
    prompts = min(settings.kl_prompts, len(set(held_out.table["prompt_id"])))
    if not prompts:
        return []
    with console.progress("trained: samples for KL", prompts) as advance:
        return sample_answers(
            policy,
            held_out.encoder,
            held_out.table,
            prompts=prompts,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            seed=seed,
            advance=advance,
        )


def compare(
    base: Measured,
    trained: Measured,
    held_out: HeldOut,
    *,
    beta: float,
    policy_kl: Sequence[float],
    reference_kl: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """All metrics of a run, as a record holds them.

    Args:
        base: the policy before training, which is the reference.
        trained: the policy after it.
        held_out: what both were measured on.
        beta: scales implicit rewards.
        policy_kl: log-probabilities of `draw_for_kl`'s answers under the trained policy, nats.
        reference_kl: the same under the reference.
        seed: of the bootstraps.

    Returns:
        `answers` and `groups` (base, trained, paired difference), `rewards`, `kl` (nats an answer) and `lm_eval` (base,
        trained), each only where it was measured.
    """
    metrics: dict[str, Any] = {}
    if base.answers:
        answers = compare_answers(base.answers, trained.answers, seed=seed).as_dict()
        metrics |= {"answers": answers["overall"], "groups": answers["groups"]}
    if base.logps:
        part = held_out.table.select(held_out.reward_rows)
        rewards = [beta * (new - old) for new, old in zip(trained.logps, base.logps, strict=True)]
        metrics["rewards"] = reward_metrics(rewards, part["desirable_clean"], part["prompt_id"], seed=seed)
    if policy_kl:
        metrics["kl"] = sampled_kl(policy_kl, reference_kl)
    if base.lm_eval:
        metrics["lm_eval"] = {"base": base.lm_eval, "trained": trained.lm_eval}
    return metrics
