"""The stages of a run that measure: what judges its policies, and what the base policy does before training."""

from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

from kto_lab import narration
from kto_lab.evaluation.evaluate import HeldOut, Judge, Measured
from kto_lab.evaluation.settings import Evaluation
from kto_lab.losses import Objective
from kto_lab.models.adapters import Policy
from kto_lab.models.exact_rows import ExactRows
from kto_lab.models.reference import ReferencePolicy, at_start
from kto_lab.models.tokens import Encoder, Lengths
from kto_lab.ranks import ALONE, Ranks
from kto_lab.runs.process_cache import ProcessCache
from kto_lab.sealed import read_json, recover
from kto_lab.training.hardware import Hardware
from kto_lab.training.optimization import Optimization

if TYPE_CHECKING:
    from kto_lab.models.store import LogpCache

# How many base policies a sweep remembers the measurements of: one per seed.
BASES = 16
# Of a policy that is not evaluated.
NOTHING = Measured(answers=[], logps=[])


def longest_sequence(lengths: Lengths, evaluation: Evaluation, objective: Objective) -> int:
    """Tokens of the longest sequence that a run can give a model.

    That is a mismatched pair, or a sampled answer: the longest prompt with the longest completion.
    """
    sampled = getattr(objective.reference_point, "max_new_tokens", 0)
    return lengths.max_length + max(lengths.max_length, evaluation.max_new_tokens, sampled)


def judge_of(
    table_test: Dataset,
    encoder: Encoder,
    evaluation: Evaluation,
    optimization: Optimization,
    hardware: Hardware,
    rows: ExactRows,
    *,
    folder: Path,
    seed: int,
    ranks: Ranks = ALONE,
) -> Judge:
    """What measures policies on held-out prompts.

    Args:
        table_test: the held-out part of the table of examples.
        encoder: of the policies' tokenizer.
        evaluation: what is measured.
        optimization: says how rows are cut.
        hardware: where policies compute, and in which number format.
        rows: how they can be laid out.
        folder: for what is found.
        seed: of the run.
        ranks: the processes that share the work.
    """
    return Judge(
        held_out=HeldOut.of(taken(table_test, encoder), encoder, evaluation.reward_examples),
        plain=encoder,
        settings=evaluation,
        folder=folder,
        token_budget=optimization.micro_batch_tokens,
        share_prompts=optimization.keep_prompts_together and rows.shared,
        seed=seed,
        autocast=hardware.autocast,
        ranks=ranks,
    )


def taken(table_test: Dataset, encoder: Encoder) -> Dataset:
    """The held-out examples without those that the chat template refuses, where these are to be dropped."""
    rows = encoder.taken(table_test)
    if not (left_out := len(table_test) - len(rows)):
        return table_test
    narration.say(f"    {left_out} held-out examples left out: the chat template refuses them")
    return table_test.select(rows)


def deployed_judge(judge: Judge, objective: Objective) -> Judge:
    """What measures the trained policy as it will be asked: with the control text of its desirable answers, if any."""
    controls = objective.controls
    return judge.asking(controls.desirable) if controls else judge


def measure_base(
    judge: Judge,
    policy: Policy,
    reference: ReferencePolicy | None,
    logp_cache: "LogpCache | None",
    cache: ProcessCache,
    key: str,
) -> Measured:
    """What the policy does before training; kept in the run folder, so that a resumed run need not ask again.

    Args:
        judge: of the run.
        policy: with its first weights.
        reference: of the policy; None for none.
        logp_cache: what is known of the reference.
        cache: of this process.
        key: a hash of all that the measurements can depend on.
    """
    kept = judge.folder / "base.json"
    known = recover(kept, read_json, "the base policy is measured again") if judge.ranks.first else None
    # One process may see the file before another does.
    if (known := judge.ranks.told(known)) is not None:
        return Measured.from_dict(known)
    if not judge.settings.measures:
        return NOTHING
    narration.stage("Evaluation before", "The base policy on the held-out prompts, to compare with afterwards.")
    base = cache.get("base", key, lambda: base_measured(judge, policy, reference, logp_cache), most=BASES)
    if not kept.exists():
        judge.keep("base", base)
    return base


def measure_trained(judge: Judge, policy: Policy) -> Measured:
    """What the trained policy does; nothing where a run is not to be evaluated."""
    if not judge.settings.measures:
        narration.say("    nothing is measured: evaluation asks for nothing")
        return NOTHING
    narration.stage("Evaluation after", "The same prompts, the trained policy. Labels are the clean ones.")
    return judge.measure(policy, "trained")


def base_measured(
    judge: Judge, policy: Policy, reference: ReferencePolicy | None, logp_cache: "LogpCache | None"
) -> Measured:
    """What the policy does before its first step, with the log-probabilities of its reference."""
    other = reference if reference is not None and not reference.inside else None
    with at_start(policy) as first:
        return judge.measure(first, "base", logp_cache, scorer=other)
