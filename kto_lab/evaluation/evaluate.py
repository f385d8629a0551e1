"""Judging a policy on held-out prompts, and one policy against another.

`Judge.measure` looks at one policy and returns plain data; `Judge.compare` turns the data of two into estimates. So the
base policy is measured before training, while it is in memory, and nothing has to be loaded twice.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from datasets import Dataset

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.evaluation.answers import (
    ScoredAnswer,
    answer_prompts,
    sample_answers,
    sampled_kl,
    scores_of,
    select_prompts,
)
from kto_lab.evaluation.judge import judged
from kto_lab.evaluation.lm_eval import TaskResults, run_lm_eval
from kto_lab.evaluation.measuring import PolicyResults, compare, find_metrics, own_scores, summarise
from kto_lab.evaluation.rewards import reward_metrics
from kto_lab.evaluation.settings import Evaluation
from kto_lab.feedback.checkers import ON_A_SCALE
from kto_lab.feedback.table import pair_ids_of
from kto_lab.memory import within_memory
from kto_lab.models.adapters import Policy
from kto_lab.models.reference import ReferencePolicy
from kto_lab.models.sequences import Tokens
from kto_lab.models.store_scorer import known, not_finite, score_and_keep
from kto_lab.models.tokens import Encoder
from kto_lab.ranks import ALONE, Ranks
from kto_lab.sealed import write_json
from kto_lab.statistics import Bounds, Estimate

if TYPE_CHECKING:
    from kto_lab.models.store import LogpCache

Given = TypeVar("Given")

# Of a folder: metric to prompt_id to the score of the trained policy.
PROMPT_SCORES = "scores.json"
# What to do where memory runs out.
ANSWERING = "Lower evaluation.batch_tokens, which changes no answer, or evaluation.max_new_tokens."
SCORING = "Lower optimization.micro_batch_tokens, which changes no number but by rounding."


@dataclass(frozen=True)
class Measured:
    """What one policy did on the held-out prompts.

    Attributes:
        answers: greedy answers, scored.
        logps: log-probability of each held-out example that `reward_rows` names, nats.
        lm_eval: of its tasks.
    """

    answers: list[ScoredAnswer]
    logps: list[float]
    lm_eval: TaskResults = field(default_factory=TaskResults)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Measured":
        """The inverse of `as_dict`."""
        return cls(
            answers=[ScoredAnswer(**answer) for answer in value["answers"]],
            logps=value["logps"],
            lm_eval=TaskResults(
                estimates={
                    task: {name: Estimate(**estimate) for name, estimate in metrics.items()}
                    for task, metrics in value["lm_eval"]["estimates"].items()
                },
                higher_is_better=value["lm_eval"]["higher_is_better"],
            ),
        )


@dataclass(frozen=True)
class HeldOut:
    """The held-out examples, ready to be measured on.

    Attributes:
        table: the test split.
        encoder: the policy's tokenizer's; with the control text that the policy was trained to be asked with, if any.
        reward_rows: the rows whose implicit reward is measured: all of the first prompts, ordered by `select_prompts`.
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
        for row, identity in enumerate(table["prompt_id"][:]):
            members.setdefault(identity, []).append(row)
        identities = table["prompt_id"][:]
        rows = [row for first in select_prompts(table, len(members)) for row in members[identities[first]]][:examples]
        encoded = encoder.encode_table(table.select(rows))
        return cls(table, encoder, [rows[place] for place in encoded.kept], encoded.tokens)

    def with_control(self, control: str) -> "HeldOut":
        """The same examples with a control text at the end of each prompt.

        Raises:
            LabError: it leaves an example no room.
        """
        found = HeldOut.of(self.table, self.encoder.with_control(control), len(self.reward_rows))
        if found.reward_rows != self.reward_rows:
            raise LabError(
                f"The control text {control!r} makes some held-out prompts too long. Raise lengths.max_length."
            )
        return found


@dataclass(frozen=True)
class Judge:
    """Measures policies on the same held-out prompts in the same way.

    Attributes:
        held_out: what to measure on.
        plain: the encoder that the reference is asked with.
        settings: how much of it.
        folder: for what is found: `<name>.json` of each policy, and lm-eval's tasks.
        token_budget: padded tokens per batch.
        share_prompts: completions of one prompt share its row.
        seed: of what is drawn, and of the bootstraps.
        autocast: makes the block in which policies compute; it sets the number format.
        ranks: the processes that share the work; each has the policy, and all find the same.
    """

    held_out: HeldOut
    plain: Encoder
    settings: Evaluation
    folder: Path
    token_budget: int
    share_prompts: bool
    seed: int
    autocast: Callable[[], AbstractContextManager[object]]
    ranks: Ranks = ALONE

    def asking(self, control: str) -> "Judge":
        """The judge of a policy that is asked with a control text; its reference is not."""
        return replace(self, held_out=self.held_out.with_control(control))

    def measure(
        self,
        policy: Policy,
        name: str,
        logp_cache: "LogpCache | None" = None,
        *,
        scorer: ReferencePolicy | None = None,
    ) -> Measured:
        """Measure one policy, and keep what was found in the folder.

        Args:
            policy: on the device to compute on; its mode is kept.
            name: of the policy, for progress and for its files.
            logp_cache: where the policy is the reference, what is known of it.
            scorer: gives the log-probabilities in the place of the policy: a reference that is another model.
        """
        with self.autocast():
            answers, lm_eval = self._answers(policy, name), self._lm_eval(policy, name)
        scored = nullcontext(policy) if scorer is None else scorer.of(policy)
        logps = self._score(scored, self.held_out.tokens, f"{name}: rewards", self.share_prompts, logp_cache)
        found = Measured(answers, logps, lm_eval)
        # In the number format that is its own.
        if self.settings.judge is not None:
            own = judged(self.settings.judge, self.ranks.share(found.answers), policy.device)
            found = replace(found, answers=self.ranks.joined(own))
        self.keep(name, found)
        return found

    def keep(self, name: str, found: Measured) -> None:
        """Keep what was found of a policy in the folder."""
        if self.ranks.first:
            write_json(self.folder / f"{name}.json", found.as_dict())

    def compare(
        self, policy: Policy, base: Measured, trained: Measured, *, beta: float, reference: ReferencePolicy | None
    ) -> dict[str, Any]:
        """All metrics of a trained policy, as a record holds them.

        Args:
            policy: the trained policy, on the device to compute on.
            base: what was measured of the policy before training, with log-probabilities under the reference.
            trained: what was measured of the trained policy.
            beta: scales implicit rewards.
            reference: what the policy is compared with; None leaves out the KL.

        Returns:
            `answers` and `groups` (base, trained, paired difference of what has a score for each prompt), `rewards`,
            `kl` (nats per answer) and `lm_eval` (base, trained), each only where it was measured. The trained policy's
            scores of single prompts are kept in the folder, too.
        """
        metrics: dict[str, Any] = {}
        before, after = (self._prompt_scores(found, base.logps, beta) for found in (base, trained))
        if before:
            prompts, groups = (self.held_out.table[name][:] for name in ("prompt_id", "group"))
            # Of the first row of each prompt, as for its answer.
            groups = dict(zip(reversed(prompts), reversed(groups), strict=True))
            compared = compare(before, after, groups, self._bounds(), seed=self.seed).as_dict()
            metrics |= {"answers": compared["overall"], "groups": compared["groups"]}
            if self.ranks.first:
                write_json(self.folder / PROMPT_SCORES, after)
        if base.logps:
            part = self.held_out.table.select(self.held_out.reward_rows)
            rewards = [beta * (new - old) for new, old in zip(trained.logps, base.logps, strict=True)]
            metrics["rewards"] = reward_metrics(
                rewards, part["desirable_clean"], part["prompt_id"], pair_ids_of(part), seed=self.seed
            )
        if self.settings.kl_prompts and reference is not None:
            metrics["kl"] = self._kl(policy, reference)
        if base.lm_eval.estimates:
            metrics["lm_eval"] = {"base": base.lm_eval.estimates, "trained": trained.lm_eval.estimates}
        return metrics

    def summarise(self, found: Measured) -> dict[str, Any]:
        """The metrics of one policy that is compared with none, as a record holds them: `answers` and `lm_eval`."""
        return {
            "answers": summarise(self._prompt_scores(found, [], 1.0), self._bounds()),
            "lm_eval": found.lm_eval.estimates,
        }

    def try_metrics(self, base: Measured, *, beta: float) -> None:
        """Compute the metrics of `evaluation.metrics` for the policy before training, so that a mistake shows early.

        Raises:
            LabError: see `own_scores`.
        """
        self._prompt_scores(base, base.logps, beta)

    def declarations(self, found: Measured) -> dict[str, dict[str, Any]]:
        """The metrics that the lab does not declare, by name, as `Metric.as_dict`: a record is read without their code.

        They are those of `evaluation.metrics`, and lm-eval's with the better side that its tasks give them.
        """
        sides = {True: "up", False: "down", None: None}
        return {metric.name: metric.as_dict() for metric in find_metrics(self.settings.metrics)} | {
            f"{task}.{name}": {"better": sides[higher], "per_prompt": False}
            for task, metrics in found.lm_eval.higher_is_better.items()
            for name, higher in metrics.items()
        }

    def _bounds(self) -> dict[str, Bounds]:
        """Metric to the least and the largest score, of the checkers' and of `evaluation.metrics`."""
        own = {metric.name: metric.range for metric in find_metrics(self.settings.metrics)}
        return {**ON_A_SCALE, **{name: ends for name, ends in own.items() if ends is not None}}

    def _prompt_scores(
        self, found: Measured, reference_logps: Sequence[float], beta: float
    ) -> dict[str, dict[str, float]]:
        """Metric to prompt_id to a policy's score; of answers alone where there are no log-probs of the reference."""
        scores = scores_of(found.answers)
        part = self.held_out.table.select(self.held_out.reward_rows if reference_logps else [])
        logps, reference = np.array(found.logps), np.array(reference_logps)
        results = PolicyResults(
            answers=found.answers,
            prompt_ids=part["prompt_id"][:],
            desirable=np.array(part["desirable_clean"][:], dtype=bool),
            logps=logps,
            reference_logps=reference,
            rewards=beta * (logps - reference),
        )
        return scores | own_scores(find_metrics(self.settings.metrics), results)

    @within_memory("greedy answers", ANSWERING)
    def _answers(self, policy: Policy, name: str) -> list[ScoredAnswer]:
        prompts = self._at_most(self.settings.prompts)
        if not prompts:
            return []
        return self._asked(answer_prompts, policy, f"{name}: answers", prompts)

    @within_memory("log-probabilities of held-out examples and samples", SCORING)
    def _score(
        self,
        model: AbstractContextManager[Policy],
        tokens: Sequence[Tokens],
        what: str,
        share_prompts: bool,
        logp_cache: "LogpCache | None" = None,
    ) -> list[float]:
        """Log-probabilities of sequences under a model, nats: those in the cache, and the rest computed.

        The model is made and put on the device only where something is missing. Autocast is entered for it alone: what
        it keeps of a model's weights in 16 bits it keeps to the end of its block.
        """
        # One process's disk may have what another's lacks.
        logps = self.ranks.told(known(logp_cache, tokens) if self.ranks.first else torch.empty(0))
        missing = not_finite(logps)
        if len(missing):
            with model as policy, self.autocast(), narration.progress(what, len(missing)) as advance:
                logps[missing] = score_and_keep(
                    policy,
                    [tokens[index] for index in missing],
                    logp_cache,
                    pad_id=self.held_out.encoder.pad_id,
                    token_budget=self.token_budget,
                    share_prompts=share_prompts,
                    advance=advance,
                    ranks=self.ranks,
                )
            if logp_cache is not None and self.ranks.first:
                logp_cache.settle()
        return logps.tolist()

    @within_memory("lm-eval", "Lower evaluation.lm_eval_batch_size, which changes no number but by rounding.")
    def _lm_eval(self, policy: Policy, name: str) -> TaskResults:
        if not self.settings.lm_eval:
            return TaskResults()
        narration.say(f"    {name}: lm-eval on {', '.join(self.settings.lm_eval)}")
        return run_lm_eval(
            policy,
            self.held_out.encoder,
            self.settings.lm_eval,
            table_test=self.held_out.table,
            folder=self.folder / name / "lm_eval",
            max_new_tokens=self.settings.max_new_tokens,
            limit=self.settings.lm_eval_limit,
            batch_size=self.settings.lm_eval_batch_size,
            num_fewshot=self.settings.lm_eval_fewshot,
            seed=self.seed,
            ranks=self.ranks,
        )

    @within_memory("sampled answers", ANSWERING)
    def _kl(self, policy: Policy, reference: ReferencePolicy) -> Estimate:
        """KL(policy || reference) on answers that are sampled from the policy at temperature 1."""
        prompts = self._at_most(self.settings.kl_prompts)
        with self.autocast():
            drawn = self._asked(sample_answers, policy, "trained: samples", prompts)
        asked, plain = (
            [Tokens(encoder.prompt(prompt), answer) for prompt, answer in drawn]
            for encoder in (self.held_out.encoder, self.plain)
        )
        under_policy = self._score(nullcontext(policy), asked, "trained: KL", share_prompts=False)
        under_reference = self._score(reference.of(policy), plain, "reference: KL", share_prompts=False)
        return sampled_kl(under_policy, under_reference)

    def _asked(self, ask: Callable[..., list[Given]], policy: Policy, what: str, prompts: int) -> list[Given]:
        """What a policy gives to held-out prompts, with progress; `ask` is `answer_prompts` or `sample_answers`."""
        with narration.progress(what, prompts) as advance:
            return ask(
                policy,
                self.held_out.encoder,
                self.held_out.table,
                prompts=prompts,
                max_new_tokens=self.settings.max_new_tokens,
                batch_tokens=self.settings.batch_tokens,
                seed=self.seed,
                advance=advance,
                ranks=self.ranks,
            )

    def _at_most(self, prompts: int) -> int:
        return min(prompts, len(set(self.held_out.table["prompt_id"][:])))
