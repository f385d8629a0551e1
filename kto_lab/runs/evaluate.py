"""`kto-lab evaluate`: judge a finished run again, or one model alone.

A run is judged as at its end, base and trained side by side, but with the evaluation settings that are asked for now.
With those of the run the numbers are those of its record: to the last digit where the whole policy or its adapter was
saved, and to rounding where the adapter was merged. A model alone answers held-out prompts and takes lm-eval's tasks.

Either way what is found is written as a record (see `runs/record.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from kto_lab import console
from kto_lab.configuration import check_keys, check_values
from kto_lab.errors import LabError
from kto_lab.evaluation.answers import side_by_side
from kto_lab.evaluation.evaluate import HeldOut, Judge
from kto_lab.evaluation.metrics import refuse_taken_names
from kto_lab.evaluation.settings import Evaluation
from kto_lab.feedback.table import of_split
from kto_lab.hashing import content_hash
from kto_lab.keys import EVALUATE, TRAIN
from kto_lab.memory import forget_peak_of_devices
from kto_lab.models.adapters import Policy, load_saved, moved
from kto_lab.models.number_format import add_in_float32, as_read
from kto_lab.models.reference import ReferencePolicy, initial_model, none
from kto_lab.models.saved_adapter import check_merged
from kto_lab.models.sharing import sharing
from kto_lab.models.tokens import Encoder, Lengths
from kto_lab.runs.claim import CONFIG
from kto_lab.runs.components import assemble
from kto_lab.runs.environment import environment, peak_memory
from kto_lab.runs.examples import evaluation_on, read_feedback
from kto_lab.runs.identity import plain_values
from kto_lab.runs.judges import base_measured, deployed_judge, judge_of, longest_sequence, taken
from kto_lab.runs.launch import is_launched, launch
from kto_lab.runs.loading import ModelSource
from kto_lab.runs.process_cache import Node
from kto_lab.runs.record import Record, check_file, read_record
from kto_lab.runs.saving import POLICY
from kto_lab.runs.summary import show_examples, show_metrics, show_single
from kto_lab.runs.trust import refuse_foreign_code
from kto_lab.sealed import SUMS
from kto_lab.training.joining import join

# What the command brings in the place of what the run had.
BROUGHT = ("evaluation", "trainer", "reference_store")
AGAIN = Path("evaluation") / "again.json"
# What a model alone is asked about where no feedback is named: the shipped instructions, as in conf/feedback.
SHIPPED = {
    "_target_": "kto_lab.feedback.collected.from_collected",
    "path": "instruction_checks",
    "train_prompts": None,
}


def evaluate(cfg: DictConfig) -> Path:
    """Run the whole of `kto-lab evaluate`, and return the file that was written.

    Several processes (`trainer.devices`) share the work, each with the whole policy.

    Raises:
        LabError: something that a person can mend; see its message.
    """
    check_keys(cfg, EVALUATE)
    refuse_taken_names(cfg.evaluation.metrics)
    given = [name for name in ("model", "feedback") if cfg.get(name) is not None]
    if cfg.run is not None and given:
        raise LabError(f"A run brings its own model and feedback. Leave out run=..., or {' and '.join(given)}.")
    if cfg.run is not None and instantiate(cfg.lengths) != Lengths():
        raise LabError("A run brings its own lengths, by which its examples were made. Leave out lengths=...")
    if cfg.run is None and "model" not in given:
        raise LabError(
            "Say what to evaluate: run=<folder of a finished run>, or model=hf model.name=<folder or hub name>, which "
            "answers the held-out prompts of instruction_checks, or of feedback=<option>."
        )
    if cfg.run is None and "feedback" not in given:
        OmegaConf.update(cfg, "feedback", SHIPPED, force_add=True)
    if cfg.output is None:
        # The same for all processes.
        alone = Path("runs") / "evaluations" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}.json"
        cfg.output = str(alone if cfg.run is None else Path(cfg.run) / AGAIN)
    if not is_launched() and (hardware := instantiate(cfg.trainer)).processes > 1:
        launch("kto_lab.runs.evaluate:evaluate", cfg, hardware)
        return Path(cfg.output)
    forget_peak_of_devices()
    return evaluate_model(cfg) if cfg.run is None else evaluate_run(cfg)


def evaluate_run(cfg: DictConfig) -> Path:
    """Base and trained policy of a finished run, side by side.

    Raises:
        LabError: the folder holds no finished run, what it was made of has changed, or it cannot be judged so.
    """
    folder = Path(cfg.run)
    finished, own = _finished_run(folder, trusted=cfg.trust)
    for name in BROUGHT:
        own[name] = cfg[name]
    made = assemble(own)
    saved = saved_policy(folder, finished)
    target = Path(cfg.output)
    record = Record(
        folder=folder,
        run_id=finished["run_id"],
        identity=finished.get("identity", {}),
        config=plain_values(own),
        seeds=finished["seeds"],
        environment=environment(),
        # Judged in the number format of now.
        model=finished["model"] | {"number_format": made.hardware.number_format},
        training=finished["training"],
    )
    table = read_feedback(made.feedback, record, ("train", "test"))
    if record.data["fingerprint"] != finished["data"]["fingerprint"]:
        raise LabError(f"The feedback is not what {folder} was trained on: it has changed since. Restore it.")
    test = of_split(table, "test")
    evaluation = evaluation_on(test, made.evaluation, made.reference, record)
    console.stage("Policies", "The base policy, the trained one, and what it is compared with.")
    source = ModelSource(made.model, made.adapter, made.hardware, reference=made.reference)
    loaded = source.load()
    encoder = Encoder.of(loaded, made.lengths)
    check_base(loaded.provenance, encoder.hashes, finished["model"], folder)
    other, logp_cache = source.known_reference(loaded, made.store)
    if other is not None:
        check_weights(other, finished["model"]["reference"], folder)
    longest = longest_sequence(made.lengths, evaluation, made.objective)
    rows = source.lay_out_rows(loaded.model, longest=longest)
    # The base of an adapter comes back onto the device with it; a whole policy is there alone.
    moved(loaded.model, torch.device("cpu"))
    policy = _trained(saved, source, loaded.model)
    console.say(f"    {loaded.provenance['name']}; {saved}")
    files = target.with_suffix("")
    ranks = join(made.hardware)
    judge = judge_of(
        test, encoder, evaluation, made.optimization, made.hardware, rows, folder=files, seed=made.seed, ranks=ranks
    )
    before = ReferencePolicy(partial(_initial, loaded.model, source), inside=True)
    reference = source.reference_policy(before.load, share_prompts=judge.share_prompts, longest=longest)
    with record.stage("evaluation"):
        console.stage("Evaluation", "The same held-out prompts for both. Labels are the clean ones.")
        with before.of(policy) as first:
            base = base_measured(judge, first, reference, logp_cache)
        deployed = deployed_judge(judge, made.objective)
        trained = deployed.measure(policy, "trained")
        record.metrics = deployed.compare(policy, base, trained, beta=made.objective.reward_beta, reference=reference)
        record.declared = deployed.declarations(trained)
    if not ranks.first:
        return target
    record.files = {"results": target, "answers and scores": judge.folder}
    written = _write(record, target)
    show_metrics(written["metrics"], written["declared"])
    show_examples(side_by_side(base.answers, trained.answers))
    console.stage("Files", "The run's own record is as it was.")
    console.show_files(record.files)
    return target


def _initial(base: Policy, source: ModelSource) -> Policy:
    """The base on the device, as what a whole policy is compared with; the one that is given stays on the host."""
    return moved(sharing(initial_model(base, source.reference)), source.hardware.device)


def _trained(saved: Path, source: ModelSource, base: Policy) -> Policy:
    """The trained policy of a folder on the device, over its base where it is an adapter."""
    return load_saved(
        saved,
        base,
        source.adapter,
        lambda: base,
        device=source.hardware.device,
        number_format=source.hardware.number_format,
        reference_without_adapter=source.reference.without_adapter,
    )


def evaluate_model(cfg: DictConfig) -> Path:
    """One model alone: checked answers, their length, lm-eval. Without a reference there are no rewards and no KL."""
    settings: Evaluation = instantiate(cfg.evaluation)
    lengths: Lengths = instantiate(cfg.lengths)
    hardware = instantiate(cfg.trainer)
    target = Path(cfg.output)
    record = Record(
        folder=target.parent, run_id="", config=plain_values(cfg), seeds={"seed": 0}, environment=environment()
    )
    table = read_feedback(Node(cfg.feedback), record, ("test",))
    test = of_split(table, "test")
    settings = evaluation_on(test, settings, none(), record)
    console.stage("Policy", "The model to judge.")
    loaded = instantiate(cfg.model)
    check_merged(loaded.provenance, narrow=hardware.number_format == "bf16-mixed")
    as_read(loaded.model, number_format=hardware.number_format, trained=False)
    if hardware.number_format == "bf16-mixed":
        add_in_float32(loaded.model)
    encoder = Encoder.of(loaded, lengths)
    record.model = {**loaded.provenance, **encoder.hashes, "number_format": hardware.number_format}
    # Not by where it is written.
    asked = {key: value for key, value in plain_values(cfg).items() if key != "output"}
    record.run_id = content_hash(asked, record.data["fingerprint"], encoder.hashes)
    console.say(f"    {loaded.provenance['name']}; {hardware.said}")
    judge = Judge(
        held_out=HeldOut.of(taken(test, encoder), encoder, examples=0),
        plain=encoder,
        settings=settings,
        folder=target.with_suffix(""),
        # For scoring, of which there is none without a reference.
        token_budget=0,
        share_prompts=False,
        seed=record.seeds["seed"],
        autocast=hardware.autocast,
        ranks=(ranks := join(hardware)),
    )
    with record.stage("evaluation"):
        console.stage("Evaluation", "Held-out prompts, answered greedily, and lm-eval's tasks.")
        found = judge.measure(loaded.model.to(hardware.device), "model")
    record.metrics, record.declared = judge.summarise(found), judge.declarations(found)
    if not ranks.first:
        return target
    record.files = {"results": target, "answers and scores": judge.folder}
    written = _write(record, target)
    show_single(written["metrics"], written["declared"], name=loaded.provenance["name"])
    console.stage("Files", "Results, and each answer with its score.")
    console.show_files(record.files)
    return target


def check_base(provenance: dict[str, Any], hashes: dict[str, str], ran: dict[str, Any], folder: Path) -> None:
    """Refuse a base model whose weights, tokenizer or chat template are not those of the run."""
    check_weights(provenance, ran, folder)
    for name, found in hashes.items():
        if ran.get(name) != found:
            raise LabError(f"The base model's {name} is not what {folder} was trained with. Restore it.")


def check_weights(loaded: dict[str, Any], ran: dict[str, Any], folder: Path) -> None:
    """Refuse base weights that are not those of the run, where its record has their hash."""
    if "weights" in ran and loaded.get("weights") != ran["weights"]:
        raise LabError(
            f"The weights of {loaded['name']} are not what {folder} was trained from: its record says "
            f"{ran['weights']}, and these are {loaded.get('weights')} (SHA-256). Put the base back as it was."
        )


def saved_policy(folder: Path, finished: Mapping[str, Any]) -> Path:
    """The folder of a run's trained policy.

    Args:
        folder: of the run.
        finished: its record.

    Raises:
        LabError: it is missing, or another's.
    """
    saved = folder / POLICY
    if not saved.is_dir():
        raise LabError(f"{saved} is missing, so there is no trained policy to judge. Put it back, or train again.")
    check_file(finished, folder, f"{POLICY}/{SUMS}")
    return saved


def _finished_run(folder: Path, *, trusted: Sequence[str]) -> tuple[dict[str, Any], DictConfig]:
    """The record of a run and its configuration, without what the command brings.

    Raises:
        LabError: one is missing, or the configuration names code that nobody has vouched for (see `trust`), or has a
            value that is not of its kind.
    """
    if not folder.is_dir():
        raise LabError(f"There is no folder {folder}. Give run= the folder of a finished run.")
    finished = read_record(folder)
    kept = folder / CONFIG
    if not kept.is_file():
        raise LabError(f"{kept} is missing, and with it what the run was. Put it back, or train again.")
    check_file(finished, folder, CONFIG)
    try:
        own = OmegaConf.load(kept)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise LabError(f"{kept} cannot be read: {error}. Put it back, or train again.") from error
    if not isinstance(own, DictConfig):
        raise LabError(f"{kept} is no configuration of a run. Put it back, or train again.")
    for name in BROUGHT:
        own.pop(name, None)
    refuse_foreign_code(own, kept, trusted)
    if missing := [name for name in TRAIN if name not in own and name not in BROUGHT]:
        raise LabError(f"{kept} lacks {', '.join(missing)}. Put it back as the run wrote it, or train again.")
    try:
        check_values(own, TRAIN)
    except LabError as error:
        raise LabError(f"{kept}: {error}\nPut it back as the run wrote it, or train again.") from error
    return finished, own


def _write(record: Record, target: Path) -> dict[str, Any]:
    record.peak_memory = peak_memory()
    return read_record(record.write(target))
