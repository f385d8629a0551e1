"""One run, end to end: feedback, policy, plan, evaluation before, training, evaluation after, record.

`train` reads top to bottom as the run does; each line is a stage and takes what the stage before returned.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from datasets import Dataset
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from kto_lab import __version__, console
from kto_lab.errors import LabError
from kto_lab.evaluation.evaluate import HeldOut, Measured, compare, draw_for_kl, measure, score_with_progress
from kto_lab.evaluation.settings import Evaluation
from kto_lab.feedback.table import class_counts, content_hash, fingerprint, of_split
from kto_lab.files import write_json, write_text
from kto_lab.losses import Feed, Objective
from kto_lab.models.adapters import FullFineTuning, Lora, Policy, reference_model, save_policy
from kto_lab.models.load import Loaded
from kto_lab.models.logps import sharing_is_exact
from kto_lab.models.tokens import Encoder, Lengths
from kto_lab.studies import wandb_log
from kto_lab.studies.record import RECORD, Record, read_record
from kto_lab.summary import show_metrics
from kto_lab.training.callbacks import METRICS
from kto_lab.training.curves import CURVES, plot_curves
from kto_lab.training.data import TrainingData, prepare
from kto_lab.training.fit import fit
from kto_lab.training.hardware import Hardware
from kto_lab.training.loggers import MetricsFileOnly, Wandb
from kto_lab.training.optimization import Optimization
from kto_lab.training.reference import BATCH_FACTOR

CONFIG = "config.yaml"
# What can be another on resume without another result.
FREE_KEYS = ("run_dir", "logger", "trainer", "hydra")


@dataclass
class Parts:
    """Everything that the configuration names, made: one object a node."""

    cfg: DictConfig
    folder: Path
    seed: int
    objective: Objective
    optimization: Optimization
    hardware: Hardware
    evaluation: Evaluation
    lengths: Lengths
    adapter: FullFineTuning | Lora
    loggers: MetricsFileOnly | Wandb


def train(cfg: DictConfig) -> Path:
    """Run the whole of `kto-lab train`, or what is left of it, and return the run folder.

    A finished run is not run again; an unfinished one goes on from its last checkpoint.

    Raises:
        LabError: something that a person can mend; see its message.
    """
    parts = assemble(cfg)
    if (parts.folder / RECORD).exists():
        console.say(f"{parts.folder} holds a finished run; nothing to do. Choose another run_dir to run again.")
        return parts.folder
    _claim(parts)
    record = Record(folder=parts.folder, run_id="", config=_plain(cfg), seeds={"seed": parts.seed})

    with record.stage("feedback"):
        table = read_feedback(parts, record)
    with record.stage("model"):
        loaded, policy, encoder = load_policy(parts, record)
    record.run_id = content_hash(_identity(cfg), record.data["fingerprint"], __version__)
    with record.stage("plan"):
        damaged = instantiate(cfg.corruption)(of_split(table, "train"))
        data = plan(parts, damaged, encoder, record)
        held_out = HeldOut.of(of_split(table, "test"), encoder, parts.evaluation.reward_examples)
    share = parts.optimization.keep_prompts_together and sharing_is_exact(loaded.model)
    first = pl.utilities.rank_zero_only.rank in (None, 0)
    if first:
        with record.stage("evaluation before"):
            base = measure_base(parts, policy, held_out, share)
    loggers = parts.loggers.make(folder=parts.folder, run_id=record.run_id, config=record.config)
    with record.stage("training"):
        fit(
            policy,
            data,
            parts.objective,
            parts.optimization,
            parts.hardware,
            folder=parts.folder,
            loggers=loggers,
            pad_id=encoder.pad_id,
            share_prompts=share,
            seed=parts.seed,
        )
    if first:
        with record.stage("evaluation after"):
            judge(parts, policy, base, held_out, share, record)
        with record.stage("saving"):
            save_policy(policy, loaded.tokenizer, parts.folder / "policy", merge=parts.adapter.merge)
        finish(parts, record, loggers)
    return parts.folder


def assemble(cfg: DictConfig) -> Parts:
    """Make what the configuration names, so that a mistake in it shows before anything is loaded."""
    return Parts(
        cfg=cfg,
        folder=Path(cfg.run_dir),
        seed=cfg.seed,
        objective=instantiate(cfg.loss),
        optimization=instantiate(cfg.optimization),
        hardware=instantiate(cfg.trainer),
        evaluation=instantiate(cfg.evaluation),
        lengths=instantiate(cfg.lengths),
        adapter=instantiate(cfg.adapter),
        loggers=instantiate(cfg.logger),
    )


def read_feedback(parts: Parts, record: Record) -> Dataset:
    """The table of examples."""
    console.stage("Feedback", "Thumbs from the source become one table; the held-out prompts are set apart by hash.")
    table = instantiate(parts.cfg.feedback)
    counts = class_counts(table)
    record.data = {"fingerprint": fingerprint(table), "counts": counts}
    for split, count in counts.items():
        console.say(
            f"    {split:<5}  {count['prompts']} prompts, {count['examples']} examples: "
            f"{count['desirable']} desirable, {count['undesirable']} undesirable"
        )
    missing = {"train", "test"} - set(counts)
    if missing:
        raise LabError(f"No prompt fell into the {missing.pop()} split. Use more data, or another feedback.held_out.")
    return table


def load_policy(parts: Parts, record: Record) -> tuple[Loaded, Policy, Encoder]:
    """The policy, on the device to compute on, and its tokenizer's encoder."""
    console.stage("Policy", "The model to align. Before its first step it is its own reference.")
    loaded = instantiate(parts.cfg.model)
    pl.seed_everything(parts.seed, verbose=False)
    policy = parts.adapter.attach(loaded.model).to(parts.hardware.device)
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in policy.parameters())
    record.model = {**loaded.provenance, "parameters": everything, "trainable": trainable}
    console.say(f"    {loaded.provenance['name']}")
    console.say(
        f"    {everything / 1e6:.1f} M parameters, {trainable / 1e6:.1f} M trained; {parts.hardware.device}, "
        f"{parts.hardware.number_format}"
    )
    return loaded, policy, Encoder(loaded.tokenizer, parts.lengths)


def plan(parts: Parts, train_table: Dataset, encoder: Encoder, record: Record) -> TrainingData:
    """Tokens, and which examples each step sees."""
    objective, optimization = parts.objective, parts.optimization
    console.stage("Plan", "What each optimiser step sees is settled now: a function of the data and the seed alone.")
    data = prepare(train_table, encoder, objective, optimization, seed=parts.seed)
    steps, batch = data.plan.steps.shape
    what = "pairs" if objective.needs.feed is Feed.PAIRS else "examples"
    console.say(f"    {len(data.plan.units)} {what} in {steps} steps of {batch}, loss {objective.name}")
    if data.dropped:
        console.say(f"    {data.dropped} examples left out: the prompt leaves no room within lengths.max_length")
    if data.cut:
        console.say(f"    {data.cut} completions cut at lengths.max_length")
    if data.plan.same_prompt:
        console.say(f"    {data.plan.same_prompt} mismatched pairs share a prompt: their step had too few prompts")
    members = [data.plan.units[unit] for unit in data.plan.steps.flat]
    record.training = {
        "loss": objective.name,
        "steps": steps,
        "batch_size": batch,
        "units_available": len(data.plan.units),
        "units_seen": steps * batch,
        "examples_seen": sum(map(len, members)),
        "pairs_seen": steps * batch if objective.needs.feed is Feed.PAIRS else 0,
        "tokens_seen": sum(len(data.tokens[example]) for unit in members for example in unit),
        "completion_tokens_seen": sum(len(data.tokens[example].completion) for unit in members for example in unit),
        "dropped": data.dropped,
        "cut": data.cut,
        "mismatched_same_prompt": data.plan.same_prompt,
    }
    return data


def measure_base(parts: Parts, policy: Policy, held_out: HeldOut, share: bool) -> Measured:
    """What the policy does before training; kept in the run folder, so that a resumed run need not ask again."""
    kept = parts.folder / "evaluation" / "base.json"
    if kept.exists():
        return Measured.from_dict(json.loads(kept.read_text(encoding="utf-8")))
    console.stage("Evaluation before", "The base policy answers the held-out prompts, to compare with afterwards.")
    base = _measure(parts, policy, held_out, share, "base")
    write_json(kept, base.as_dict())
    return base


def _measure(parts: Parts, policy: Policy, held_out: HeldOut, share: bool, name: str) -> Measured:
    with parts.hardware.autocast():
        return measure(
            policy,
            held_out,
            parts.evaluation,
            name=name,
            folder=parts.folder / "evaluation" / name,
            token_budget=BATCH_FACTOR * parts.optimization.micro_batch_tokens,
            share_prompts=share,
            seed=parts.seed,
        )


def judge(parts: Parts, policy: Policy, base: Measured, held_out: HeldOut, share: bool, record: Record) -> None:
    """Measure the trained policy, compare it with the base, and show the tables."""
    console.stage("Evaluation after", "The same prompts, the trained policy. Labels are the clean ones.")
    policy = policy.to(parts.hardware.device)
    trained = _measure(parts, policy, held_out, share, "trained")
    write_json(parts.folder / "evaluation" / "trained.json", trained.as_dict())
    policy_kl: list[float] = []
    reference_kl: list[float] = []
    with parts.hardware.autocast():
        drawn = draw_for_kl(policy, held_out, parts.evaluation, seed=parts.seed)
        if drawn:
            score_drawn = functools.partial(
                score_with_progress,
                held_out=held_out,
                tokens=drawn,
                token_budget=BATCH_FACTOR * parts.optimization.micro_batch_tokens,
                share_prompts=False,
            )
            policy_kl = score_drawn(policy, name="trained: KL")
            with reference_model(
                policy, lambda: instantiate(parts.cfg.model).model.to(parts.hardware.device)
            ) as reference:
                reference_kl = score_drawn(reference, name="reference: KL")
    record.metrics = compare(
        base,
        trained,
        held_out,
        beta=parts.objective.beta,
        policy_kl=policy_kl,
        reference_kl=reference_kl,
        seed=parts.seed,
    )


def finish(parts: Parts, record: Record, loggers: list[Logger]) -> None:
    """Draw the curves, write the record, hand the results to the loggers, and show what was found."""
    folder = parts.folder
    plot_curves(folder / METRICS, folder / CURVES)
    record.files = {
        "record": folder / RECORD,
        "policy": folder / "policy",
        "curves": folder / CURVES,
        "metrics of each step": folder / METRICS,
        "answers and scores": folder / "evaluation",
        "checkpoints": folder / "checkpoints",
        "configuration": folder / CONFIG,
    }
    record.write()
    finished = read_record(folder)
    wandb_log.finish(loggers, finished, tables=_sample_answers(folder), curves=folder / CURVES)
    show_metrics(finished["metrics"])
    console.stage("Files", "Everything of this run; the record is written last, so it stands for a finished run.")
    console.show_files(record.files)


def _sample_answers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Answers of both policies side by side, as a logger's table."""
    base, trained = (
        json.loads((folder / "evaluation" / f"{name}.json").read_text(encoding="utf-8"))["answers"]
        for name in ("base", "trained")
    )
    rows = [
        {
            "group": before["group"],
            "prompt": before["prompt"] if isinstance(before["prompt"], str) else before["prompt"][-1]["content"],
            "base": before["answer"],
            "base_score": before["score"],
            "trained": after["answer"],
            "trained_score": after["score"],
        }
        for before, after in zip(base, trained, strict=True)
    ]
    return {"sample answers": rows} if rows else {}


def _claim(parts: Parts) -> None:
    """Write the configuration into a new run folder, or see that an old one's is the same."""
    kept = parts.folder / CONFIG
    now = _identity(parts.cfg)
    if not kept.exists():
        write_text(kept, OmegaConf.to_yaml(parts.cfg, resolve=True))
        return
    before = _identity(OmegaConf.create(kept.read_text(encoding="utf-8")))
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if differing:
        raise LabError(
            f"{parts.folder} holds an unfinished run whose {', '.join(differing)} differ from what is asked for now. "
            "Give the same settings to resume it, or choose another run_dir."
        )


def _identity(cfg: DictConfig) -> dict[str, Any]:
    """The part of the configuration that can change the result."""
    return {key: value for key, value in _plain(cfg).items() if key not in FREE_KEYS}


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}
