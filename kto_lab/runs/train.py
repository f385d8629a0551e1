"""One run, end to end: feedback, policy, plan, evaluation before, training, evaluation after, record.

`train` reads top to bottom as the run does; each line is a stage and takes what the stage before returned.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from datasets import Dataset
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.evaluation.answers import side_by_side
from kto_lab.evaluation.evaluate import HeldOut, Judge, Measured
from kto_lab.evaluation.judge import check_judge
from kto_lab.evaluation.settings import Evaluation
from kto_lab.feedback.corruption import Corrupted
from kto_lab.feedback.table import class_counts, fingerprint, flip_rates, of_split
from kto_lab.hashing import content_hash
from kto_lab.losses import Feed, FlipRates, Objective
from kto_lab.losses.noise import inversion_warnings, robust_weights
from kto_lab.losses.reference_points import Completions
from kto_lab.losses.weighting import Weights
from kto_lab.models.adapters import (
    FullFineTuning,
    Lora,
    Policy,
    attached,
    check_loaded,
    has_bare_reference,
    moved,
    reference_at_start,
)
from kto_lab.models.attention import packs, set_packing
from kto_lab.models.load import Loaded
from kto_lab.models.logps import find_exact_rows
from kto_lab.models.number_format import as_read, formats, masters
from kto_lab.models.store_scorer import scorer_of
from kto_lab.models.tokens import Encoder, Lengths
from kto_lab.runs.claim import claim, refuse_another_configuration
from kto_lab.runs.identity import identify, node_key, plain_values
from kto_lab.runs.observer import Observer
from kto_lab.runs.process_cache import NO_CACHE, ProcessCache
from kto_lab.runs.record import RECORD, Record
from kto_lab.runs.saving import save_and_compare
from kto_lab.training.clipping import planned_scales
from kto_lab.training.data import TrainingData, class_weights, plan_steps, prepare
from kto_lab.training.dropout import dropout_rates
from kto_lab.training.fit import CHECKPOINTS, check_feasible, fit
from kto_lab.training.hardware import Hardware
from kto_lab.training.optimization import Optimization
from kto_lab.training.update_rule import UpdateRule

if TYPE_CHECKING:
    from kto_lab.models.store import LogpCache, NoStore, ReferenceStore

# How many base policies a sweep remembers the measurements of: one a seed.
BASES = 16
KEYS = (
    "seed",
    "runs_dir",
    "run_dir",
    "lengths",
    "optimization",
    "model",
    "adapter",
    "feedback",
    "corruption",
    "loss",
    "optimizer",
    "schedule",
    "reference_store",
    "evaluation",
    "logger",
    "trainer",
)


@dataclass
class Components:
    """Everything that the configuration names, made: one object a node."""

    cfg: DictConfig
    folder: Path
    seed: int
    objective: Objective
    optimization: Optimization
    update_rule: UpdateRule
    hardware: Hardware
    evaluation: Evaluation
    lengths: Lengths
    adapter: FullFineTuning | Lora
    store: "ReferenceStore | NoStore"


def train(cfg: DictConfig, observer: Observer, cache: ProcessCache = NO_CACHE) -> Path:
    """Make a whole run, or what is left of it, and return the run folder.

    A finished run is not run again; an unfinished one goes on from its last checkpoint.

    Args:
        cfg: the configuration `train`, whose keys have been checked.
        observer: logs, draws and shows the run.
        cache: what earlier runs of this process have kept for this one.

    Raises:
        LabError: something that a person can mend; see its message.
    """
    components = assemble(cfg)
    if (components.folder / RECORD).exists():
        narration.say(f"{components.folder} holds a finished run; nothing to do. Choose another run_dir to run again.")
        return components.folder
    refuse_another_configuration(components.folder, cfg)
    record = Record(
        folder=components.folder,
        run_id="",
        config=plain_values(cfg),
        seeds={"seed": components.seed},
        environment=observer.environment(),
    )

    with record.stage("feedback"):
        table = read_feedback(cfg.feedback, record, ("train", "test"), cache)
        components.evaluation = evaluation_on(table, components.evaluation, record)
        corrupted = corrupt(cfg.corruption, of_split(table, "train"))
        check_measurable(components.objective, corrupted)
        # Tried on all examples, so that what cannot be planned shows before a model is loaded.
        planned, _ = plan_steps(
            corrupted.table, corrupted.swap_pairs, components.objective, components.optimization, seed=components.seed
        )
        components.update_rule.check(
            learning_rate=components.optimization.learning_rate,
            vectors=components.adapter.trains_the_model,
            steps=len(planned.steps),
            device=components.hardware.device,
        )
    with record.stage("model"):
        loaded, logp_cache, policy, encoder = load_policy(components, record, cache)
    identity = identify(cfg)
    record.run_id, record.identity = identity.run_id, asdict(identity)
    with record.stage("plan"):
        data = plan(components, policy, corrupted, encoder, record)
        judge = judge_of(
            components, loaded.model, encoder, of_split(table, "test"), components.folder / "evaluation", cache
        )
        deployed = deployed_judge(components, judge)
    claim(components.folder, cfg, identity, record.data["fingerprint"], encoder.hashes)
    first = getattr(rank_zero_only, "rank", 0) == 0
    if first:
        with record.stage("evaluation before"):
            base = measure_base(judge, policy, base_key(cfg), cache, logp_cache)
    loggers = observer.loggers(record)
    with (
        record.stage("training"),
        masters(policy, number_format=components.hardware.number_format, seed=components.seed),
    ):
        record.training |= fit(
            policy,
            data,
            components.objective,
            components.optimization,
            components.update_rule,
            components.hardware,
            folder=components.folder,
            loggers=loggers,
            share_prompts=judge.share_prompts,
            seed=components.seed,
            logp_cache=logp_cache,
        )
    if first:
        with record.stage("evaluation after"):
            narration.stage("Evaluation after", "The same prompts, the trained policy. Labels are the clean ones.")
            policy = moved(policy, components.hardware.device)
            trained = deployed.measure(policy, "trained")
            reference = partial(load_reference, components, cache, packed=packs(loaded.model))
            record.metrics = deployed.compare(
                policy, base, trained, beta=components.objective.reward_beta, load=reference
            )
        with record.stage("saving"):
            record.model["saved_difference"] = save_and_compare(
                policy,
                deployed,
                components.folder / "policy",
                adapter=components.adapter,
                number_format=components.hardware.number_format,
                examples=data.tokens,
                ending=data.ending,
                load=reference,
            )
        observer.conclude(record)
        record.write()
        # Three times the policy on the disk, in every cell of a sweep, and what has finished does not resume.
        shutil.rmtree(components.folder / CHECKPOINTS, ignore_errors=True)
        observer.show(record, side_by_side(base.answers, trained.answers))
    return components.folder


def assemble(cfg: DictConfig) -> Components:
    """Make what the configuration names, so that a mistake in it shows before anything is loaded."""
    components = Components(
        cfg=cfg,
        folder=Path(cfg.run_dir),
        seed=cfg.seed,
        objective=instantiate(cfg.loss),
        optimization=instantiate(cfg.optimization),
        update_rule=UpdateRule.of(cfg),
        hardware=instantiate(cfg.trainer),
        evaluation=instantiate(cfg.evaluation),
        lengths=instantiate(cfg.lengths),
        adapter=instantiate(cfg.adapter),
        store=instantiate(cfg.reference_store),
    )
    attention = cfg.model.get("attention")
    check_feasible(
        components.objective, components.optimization, components.hardware, components.adapter, attention=attention
    )
    objective = components.objective
    if objective.compared_to is Completions.SAMPLED and not objective.needs.reference:
        raise LabError(
            f"loss.reference_point=sampled compares with the reference, and the loss {objective.name} has none. Use "
            "reference_point@loss.reference_point=batch loss.reference_point.clamp=false."
        )
    return components


def read_feedback(
    feedback: DictConfig, record: Record, needed: Sequence[str], cache: ProcessCache = NO_CACHE
) -> Dataset:
    """The table of examples of a `feedback` node, which must have prompts in the splits that are needed."""
    narration.stage("Feedback", "Thumbs become one table; held-out prompts are set apart by a hash.")
    table = cache.table(feedback)
    counts = class_counts(table)
    record.data = {"fingerprint": fingerprint(table), "counts": counts}
    for split, count in counts.items():
        narration.say(
            f"    {split:<5}  {count['prompts']} prompts, {count['examples']} examples: "
            f"{count['desirable']} desirable, {count['undesirable']} undesirable"
        )
    missing = [split for split in needed if split not in counts]
    if missing:
        raise LabError(f"No prompt fell into the {missing[0]} split. Use more data, or another feedback.held_out.")
    return table


def evaluation_on(table: Dataset, settings: Evaluation, record: Record) -> Evaluation:
    """What can be evaluated on the held-out prompts of a table; what is left out is said.

    Raises:
        LabError: something that was asked for by name cannot be, or the judge cannot be loaded.
    """
    found, left_out = settings.on(of_split(table, "test"))
    if left_out:
        narration.say(f"    {left_out}")
    if found.judge is not None:
        record.data["judge"] = check_judge(found.judge)
    return found


def load_policy(
    components: Components, record: Record, cache: ProcessCache
) -> "tuple[Loaded, LogpCache | None, Policy, Encoder]":
    """The model, what is known of it as the reference, the policy on the device to compute on, and its encoder."""
    narration.stage("Policy", "The model to align. Before its first step it is its own reference.")
    loaded = load_model(components, cache)
    # While the model is as it was loaded: what is done to it for this run is not the reference's.
    logp_cache = open_logp_cache(components, loaded, cache)
    pl.seed_everything(components.seed, verbose=False)
    policy = attached(loaded.model, components.adapter, number_format=components.hardware.number_format)
    moved(policy, components.hardware.device)
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in policy.parameters())
    kept = formats(policy)
    record.model = {**loaded.provenance, **kept, "parameters": everything, "trainable": trainable}
    narration.say(f"    {loaded.provenance['name']}")
    narration.say(
        f"    {everything / 1e6:.1f} M parameters, {trainable / 1e6:.1f} M trained; {components.hardware.device}, "
        f"{components.hardware.number_format}"
    )
    narration.say(
        f"    weights loaded as {loaded.provenance['dtype']}, trained as {kept['trained_dtype']}"
        + (f", frozen as {kept['frozen_dtype']}" if kept["frozen_dtype"] else "")
    )
    made_of = content_hash(node_key(components.cfg.model), node_key(components.cfg.lengths))
    encoder = cache.get("encoder", made_of, lambda: Encoder.of(loaded, components.lengths))
    record.model |= encoder.hashes
    return loaded, logp_cache, policy, encoder


def load_model(components: Components, cache: ProcessCache) -> Loaded:
    """The model of the configuration; its weights in the formats that the run computes with."""
    loaded = cache.loaded(components.cfg.model)
    check_loaded(loaded.provenance, components.adapter, number_format=components.hardware.number_format)
    provenance = {**loaded.provenance, "dtype": str(loaded.model.dtype).removeprefix("torch.")}
    as_read(loaded.model, number_format=components.hardware.number_format, trained=components.adapter.trains_the_model)
    return replace(loaded, provenance=provenance)


def open_logp_cache(components: Components, loaded: Loaded, cache: ProcessCache = NO_CACHE) -> "LogpCache | None":
    """The reference's log-probabilities that are known, where the reference is a model as it was loaded."""
    # Without its adapter the reference is another model than the one that was loaded.
    if components.store.keeps is False or has_bare_reference(loaded.model, components.adapter):
        return None
    device, name = components.hardware.device, loaded.provenance["name"]
    number_format = components.hardware.number_format + (", compiled" if components.hardware.compile else "")
    if number_format.startswith("bf16") and isinstance(components.adapter, Lora):
        number_format += ", adapters added in float32"
    scorer = cache.get(
        "scorer",
        content_hash(node_key(components.cfg.model), components.adapter.trains_the_model, number_format, str(device)),
        lambda: scorer_of(loaded.model, name=name, number_format=number_format, device=device),
    )
    return cache.get(
        "logp_cache",
        content_hash(scorer.key, str(components.store.folder), components.store.max_bytes),
        lambda: components.store.logp_cache(scorer),
    )


def corrupt(corruption: DictConfig, train_table: Dataset) -> Corrupted:
    """The training split as the corruption leaves it."""
    corrupted: Corrupted = instantiate(corruption)(train_table)
    for change in corrupted.changes:
        flipped = change.flipped_to_desirable + change.flipped_to_undesirable
        narration.say(
            f"    {change.name}: {flipped} thumbs flipped, {change.removed} examples removed; "
            f"{change.desirable_after} desirable and {change.examples_after - change.desirable_after} undesirable left"
        )
    return corrupted


def plan(
    components: Components, policy: Policy, corrupted: Corrupted, encoder: Encoder, record: Record
) -> TrainingData:
    """Tokens, and which examples each step sees."""
    objective, optimization = components.objective, components.optimization
    narration.stage("Plan", "What each step sees is settled now, by the data and the seed alone.")
    data = prepare(corrupted, encoder, objective, optimization, seed=components.seed)
    steps, batch = data.plan.steps.shape
    what = "pairs" if objective.needs.feed is Feed.PAIRS else "examples"
    narration.say(f"    {len(data.plan.units)} {what} in {steps} steps of {batch}, loss {objective.name}")
    if data.swapped is not None:
        narration.say(f"    pair_swaps: {data.swapped.swapped} pairs swapped")
    components.objective = told_of_pairs(objective, data)
    if data.pair_noise is not None:
        narration.say(
            f"    by the clean thumbs {data.pair_noise.swapped:.1%} of the pairs are swapped, and "
            f"{data.pair_noise.same:.1%} are of two answers of one class"
        )
    if data.given.agreeing or data.given.alone:
        narration.say(
            f"    of the pairs that were given {data.given.agreeing} have halves with the same thumb and "
            f"{data.given.alone} lack a half: those are no pairs any more"
        )
    weights = class_weights(objective, data)
    if objective.weighting is not None:
        narration.say(f"    lambda_D {weights.desirable:.3g}, lambda_U {weights.undesirable:.3g}")
    for warning in noise_warnings(objective, weights, corrupted.table):
        narration.say(f"    warning: {warning}")
    for remark in data.remarks():
        narration.say(f"    {remark}")
    dropout = dropout_rates(policy, own=optimization.dropout)
    rates = ", ".join(f"{name} {rate:g}" for name, rate in dropout.items())
    narration.say(f"    dropout: {rates + '; each is run by itself' if rates else 'off'}")
    scales = planned_scales(data, weights)
    varies = f" times {min(scales):.3g} to {max(scales):.3g}, the size of a step's weights" if max(scales) != 1 else ""
    narration.say(f"    gradients are clipped at a norm of {optimization.clip_norm:g}{varies}")
    record.training = {
        "loss": objective.name,
        **data.budget(objective.needs.feed),
        "lambda_desirable": weights.desirable,
        "lambda_undesirable": weights.undesirable,
        "dropout": dropout,
        "dropped": data.dropped,
        "cut": data.cut,
        "end_in_text": data.ended,
        "special_tokens_in_text": data.special,
        "special_tokens_in_prompt": data.special_prompts,
        "mismatched_same_prompt": data.plan.same_prompt,
        "corruption": [asdict(change) for change in corrupted.changes],
        "pair_swap_share": data.pair_noise and data.pair_noise.swapped,
        "pair_same_share": data.pair_noise and data.pair_noise.same,
        "given_pairs": {"whole": len(data.given.pairs), "agreeing": data.given.agreeing, "alone": data.given.alone},
        "pairs_swapped": data.swapped and {"swapped": data.swapped.swapped, "touched": data.swapped.touched},
    }
    return data


def told_of_pairs(objective: Objective, data: TrainingData) -> Objective:
    """The objective, told the share of swapped pairs where it waits for that; see `check_measurable`.

    Raises:
        LabError: the share is out of the loss's range.
    """
    if not objective.measured:
        return objective
    assert data.pair_noise is not None, "what cannot be measured was refused"
    return objective.told(data.pair_noise.swapped)


def check_measurable(objective: Objective, corrupted: Corrupted) -> None:
    """LabError where the share of swapped pairs is to be measured, and nothing is known of the thumbs' noise."""
    if objective.measured and not corrupted.noise_is_known:
        raise LabError(
            "loss.flip_rate=measured needs thumbs whose noise is known, and no corruption turned any: nobody can say "
            "how many pairs are swapped. Set loss.flip_rate to a number, or add noise with corruption=label_noise."
        )


def noise_warnings(objective: Objective, weights: Weights, train_table: Dataset) -> list[str]:
    """Where the noise that is known of the training thumbs is more than the weights bear."""
    rates = flip_rates(train_table)
    if rates is None or not (objective.needs.weighting and objective.needs.reference):
        return []
    known = FlipRates(*rates)
    seen = robust_weights(weights, objective.flip_rates) if objective.flip_rates else weights
    return inversion_warnings(seen, known)


def judge_of(
    components: Components,
    model: Policy,
    encoder: Encoder,
    table_test: Dataset,
    folder: Path,
    cache: ProcessCache = NO_CACHE,
) -> Judge:
    """What measures policies as the configuration says, and leaves its files in a folder."""
    # Of a mismatched pair or a sampled answer: the longest prompt with the longest completion.
    sampled = getattr(components.objective.reference_point, "max_new_tokens", 0)
    longest = components.lengths.max_length + max(
        components.lengths.max_length, components.evaluation.max_new_tokens, sampled
    )
    weights = (node_key(components.cfg.model), components.adapter.trains_the_model)
    made_of = content_hash(weights, components.hardware.number_format, longest)
    with components.hardware.autocast():
        exact = cache.get("rows", made_of, lambda: find_exact_rows(model, longest=longest))
    set_packing(model, exact.packed)
    return Judge(
        held_out=HeldOut.of(table_test, encoder, components.evaluation.reward_examples),
        plain=encoder,
        settings=components.evaluation,
        folder=folder,
        token_budget=components.optimization.micro_batch_tokens,
        share_prompts=components.optimization.keep_prompts_together and exact.shared,
        seed=components.seed,
        autocast=components.hardware.autocast,
    )


def deployed_judge(components: Components, judge: Judge) -> Judge:
    """What measures the trained policy as it will be asked: with the control text of its desirable answers, if any."""
    controls = components.objective.controls
    return judge.asking(controls.desirable) if controls else judge


def base_key(cfg: DictConfig) -> str:
    """A hash of all that the base policy's measurements can depend on."""
    nodes = [node_key(cfg[name]) for name in ("model", "adapter", "feedback", "lengths", "evaluation", "trainer")]
    rows = (cfg.optimization.micro_batch_tokens, cfg.optimization.keep_prompts_together)
    return content_hash(nodes, rows, cfg.seed)


def load_reference(components: Components, cache: ProcessCache, *, packed: bool) -> Policy:
    """The model as it was before training, on the device to compute on, with its rows laid out as the policy's are."""
    model = load_model(components, cache).model
    moved(model, components.hardware.device)
    set_packing(model, packed)
    return model


def measure_base(
    judge: Judge, policy: Policy, key: str, cache: ProcessCache, logp_cache: "LogpCache | None"
) -> Measured:
    """What the policy does before training; kept in the run folder, so that a resumed run need not ask again."""
    kept = judge.folder / "base.json"
    if kept.exists():
        return Measured.from_dict(json.loads(kept.read_text(encoding="utf-8")))
    narration.stage("Evaluation before", "The base policy on the held-out prompts, to compare with afterwards.")
    with reference_at_start(policy) as reference:
        base = cache.get("base", key, lambda: judge.measure(reference, "base", logp_cache), most=BASES)
    if not kept.exists():
        judge.keep("base", base)
    return base
