"""One run, end to end: feedback, policy, plan, evaluation before, training, evaluation after, record.

The module reads top to bottom as the run does; a stage takes what the stages before it returned, and has a module of
its own: `components`, `examples`, `loading`, `training/planning`, `judges`, `training/fit`, `saving`.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from kto_lab.evaluation.answers import side_by_side
from kto_lab.evaluation.evaluate import Judge, Measured
from kto_lab.losses import Objective
from kto_lab.models.adapters import Policy, moved
from kto_lab.models.number_format import masters
from kto_lab.models.reference import ReferencePolicy
from kto_lab.processes import is_first
from kto_lab.runs.claim import CONFIG, claim, refuse_another_configuration
from kto_lab.runs.components import assemble
from kto_lab.runs.examples import read_examples
from kto_lab.runs.identity import identify, plain_values
from kto_lab.runs.judges import deployed_judge, judge_of, longest_sequence, measure_base, measure_trained
from kto_lab.runs.loading import ModelSource, load_policy
from kto_lab.runs.observer import Observer
from kto_lab.runs.process_cache import NO_CACHE, ProcessCache
from kto_lab.runs.record import Record
from kto_lab.runs.saving import POLICY, logps_of_a_few, save_and_compare
from kto_lab.training.callbacks import METRICS
from kto_lab.training.data import TrainingData
from kto_lab.training.fit import CHECKPOINTS, fit
from kto_lab.training.joining import join
from kto_lab.training.planning import check_plan, plan
from kto_lab.training.sharding import divided, gathered


def train(cfg: DictConfig, observer: Observer, cache: ProcessCache = NO_CACHE) -> Path:
    """Make a whole run, or what is left of it, and return the run folder.

    Args:
        cfg: the configuration `train`, whose keys have been checked.
        observer: logs, draws and shows the run.
        cache: what earlier runs of this process have kept for this one.

    Raises:
        LabError: something that a person can mend; see its message.
    """
    made = assemble(cfg)
    folder, hardware, seed = made.folder, made.hardware, made.seed
    first = is_first()
    refuse_another_configuration(folder, cfg)
    record = Record(folder, "", plain_values(cfg), {"seed": seed}, observer.environment())
    with record.stage("feedback"):
        test, evaluation, corrupted = read_examples(
            made.feedback, made.corruption, made.evaluation, made.reference, record, cache
        )
        check_plan(corrupted, made.objective, made.optimization, made.update_rule, made.adapter, hardware, seed=seed)
    with record.stage("model"):
        memory_plan = observer.plan_memory(cfg, made, cache)
        source = ModelSource(made.model, made.adapter, hardware, cache, made.reference)
        start = load_policy(source, made.store, made.lengths, record, seed=seed)
        policy, encoder = start.policy, start.encoder
        record.model["memory_plan"] = memory_plan
    identity = identify(cfg)
    record.run_id, record.identity = identity.run_id, asdict(identity)
    with record.stage("plan"):
        planned = plan(policy, corrupted, encoder, made.objective, made.optimization, seed=seed)
        data, objective, record.training = planned.data, planned.objective, planned.about
        longest = longest_sequence(made.lengths, evaluation, objective)
        rows = source.lay_out_rows(start.model, longest=longest)
        record.training["rows"] = asdict(rows)
        # From here on the processes of the run wait for one another.
        ranks = join(hardware)
        judge = judge_of(
            test,
            encoder,
            evaluation,
            made.optimization,
            hardware,
            rows,
            folder=folder / "evaluation",
            seed=seed,
            ranks=ranks,
        )
        deployed = deployed_judge(judge, objective)
        load = partial(source.load_initial, packed=rows.packed)
        reference = source.reference_policy(load, share_prompts=judge.share_prompts, longest=longest)
    claim(folder, cfg, identity, record.data["fingerprint"], record.model, first=first)
    with masters(policy, number_format=hardware.number_format, seed=seed):
        whole = divided(policy, hardware, made.update_rule)
        with record.stage("evaluation before"):
            base = measure_base(judge, policy, reference, start.logp_cache, cache, made.base_key)
            judge.try_metrics(base, beta=objective.reward_beta)
        loggers = observer.loggers(record)
        with record.stage("training"):
            record.training |= fit(
                policy,
                data,
                objective,
                made.optimization,
                made.update_rule,
                reference,
                hardware,
                folder=folder,
                loggers=loggers,
                share_prompts=judge.share_prompts,
                seed=seed,
                logp_cache=start.logp_cache,
            )
    conclude(policy, whole, deployed, base, data, objective, source, record, observer, reference=reference, load=load)
    return folder


def clear(folder: Path) -> None:
    """Remove what a run that has finished needs no more."""
    # Three times what is trained on the disk, in every cell of a sweep, and what has finished does not resume.
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def conclude(
    policy: Policy,
    whole: Policy | None,
    deployed: Judge,
    base: Measured,
    data: TrainingData,
    objective: Objective,
    source: ModelSource,
    record: Record,
    observer: Observer,
    *,
    reference: ReferencePolicy | None,
    load: Callable[[], Policy],
) -> None:
    """Compare the trained policy with the base; on the first process also save it, and write the record.

    Args:
        policy: the trained one.
        whole: where that is in shards, what is filled to be saved.
        deployed: what judges it.
        base: what was measured before training.
        data: what it was trained on.
        objective: what was minimised.
        source: of the model that it was trained from.
        record: of the run so far.
        observer: of the run.
        reference: of the policy; None for none.
        load: loads the model as it was before training, onto the device.
    """
    with record.stage("evaluation after"):
        policy = moved(policy, source.hardware.device)
        trained = measure_trained(deployed, policy)
        record.metrics = deployed.compare(policy, base, trained, beta=objective.reward_beta, reference=reference)
        record.declared = deployed.declarations(trained)
    with record.stage("saving"):
        wanted = logps_of_a_few(policy, deployed, data)
        if whole is not None:
            policy = gathered(policy, whole, first=deployed.ranks.first)
        if not deployed.ranks.first:
            return
        saved = record.folder / POLICY
        difference = save_and_compare(policy, wanted, deployed, saved, source=source, data=data, load=load)
        record.model["saved_difference"] = difference
    observer.conclude(record)
    record.seal(CONFIG, METRICS, POLICY, deployed.folder.name)
    record.write()
    clear(record.folder)
    observer.show(record, side_by_side(base.answers, trained.answers))
