"""The command `kto-lab feedback audit`: rank the labels to doubt, and estimate how many are wrong."""

import functools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kto_lab import console
from kto_lab.auditing.advice import Advice, advise
from kto_lab.auditing.audit import Audit, Settings, audit
from kto_lab.auditing.exchange import read_decisions, write_exports
from kto_lab.auditing.measured import Found, measure_each
from kto_lab.auditing.raters import records
from kto_lab.auditing.rates import Rates
from kto_lab.auditing.review import rates_at_random, settle
from kto_lab.auditing.review_page import write_review
from kto_lab.auditing.show import (
    show_advice,
    show_bounds,
    show_found,
    show_raters,
    show_rates,
    show_signals,
    show_suspects,
)
from kto_lab.auditing.suspects import score_table, suspect_table, why
from kto_lab.auditing.training import Recipe
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.feedback.corruption import Corrupted
from kto_lab.feedback.table import of_split
from kto_lab.feedback.table_numbers import fingerprint, flip_rates
from kto_lab.files import atomic_path, write_json
from kto_lab.keys import AUDIT
from kto_lab.losses import Objective
from kto_lab.training.update_rule import UpdateRule

NUMBERS, SUSPECTS, SCORES = "audit.json", "suspects.parquet", "scores.parquet"


def audit_feedback(cfg: DictConfig) -> Path:
    """Write the audit of a table into a folder, show it, and return the folder.

    Raises:
        LabError: the folder holds an audit, the table cannot be audited, or see the message.
    """
    check_keys(cfg, AUDIT)
    folder = Path(cfg.output)
    if (folder / NUMBERS).exists():
        raise LabError(f"{folder} holds an audit. Choose another output, or remove it to audit again.")
    settings = Settings(list(cfg.signals), cfg.folds, cfg.near_duplicates, cfg.seed)
    recipe = recipe_of(cfg) if "training" in settings.signals else None
    if min(cfg.top, cfg.at_random) < 0 or cfg.top + cfg.at_random < 1:
        raise LabError("top and at_random must not be negative, nor both 0: there would be nothing to review.")
    reviewed = reviewed_rates(cfg.decisions)

    console.stage("Feedback", "The labels to audit; the clean ones are not looked at.")
    table = read_table(cfg)
    console.stage("Signals", "Each says, from all but an example's own label, whether a thumbs-up is right.")
    result = audit(table, settings, recipe)
    rates = [*result.rates, *([reviewed] if reviewed else [])]
    labels = result.examples.labels
    advice = advise(rates, result.bounds, int(labels.sum()), int((~labels).sum()))
    measured, truth = against_clean(table, result, cfg.seed)
    wrong = int((labels != np.array(table["desirable_clean"][:], dtype=bool)).sum())

    suspects = write_tables(folder, table, result, top=cfg.top, at_random=cfg.at_random, seed=cfg.seed)
    page = write_review(folder, suspects, f"{len(suspects)} of {len(table)} thumbs to review")
    exports = write_exports(folder, suspects, list(cfg.exports)) if cfg.exports else {}
    write_json(folder / NUMBERS, numbers_of(cfg, table, result, rates, advice, measured))

    show_signals(result)
    if result.votes is not None and result.reliability is not None:
        show_raters(records(result.votes, result.reliability))
    show_bounds(result.bounds)
    show_rates(rates, truth)
    if measured:
        show_found(measured, wrong)
    console.stage("Advice", f"What follows from these intervals, for {labels.sum():,} thumbs up of {len(labels):,}.")
    show_advice(advice)
    console.stage("Suspects", "The most doubtful labels.")
    show_suspects(suspects.to_pylist())
    console.stage(
        "Files", "Review the page, download decisions.json there, and put it in with kto-lab feedback review."
    )
    files = {"page": page, "suspects": folder / SUSPECTS, "all scores": folder / SCORES, "numbers": folder / NUMBERS}
    console.show_files({**files, **exports})
    return folder


def read_table(cfg: DictConfig) -> Dataset:
    """The rows to audit: a split of the table, the training split after its corruption.

    Raises:
        LabError: the split is empty or none of the three.
    """
    if cfg.split not in ("train", "test", "all"):
        raise LabError(f"split is {cfg.split!r}; it must be 'train', 'test' or 'all'.")
    whole: Dataset = instantiate(cfg.feedback)
    parts = []
    if cfg.split != "test":
        corrupted: Corrupted = instantiate(cfg.corruption)(of_split(whole, "train"))
        for change in corrupted.changes:
            flipped = change.flipped_to_desirable + change.flipped_to_undesirable
            console.say(f"    {change.name}: {flipped} thumbs flipped, {change.removed} examples removed")
        parts.append(corrupted.table)
    if cfg.split != "train":
        parts.append(of_split(whole, "test"))
    arrow = pa.concat_tables([part.with_format("arrow")[:] for part in parts])
    if not len(arrow):
        raise LabError(f"There is no example in the {cfg.split} split. Choose another split, or use more data.")
    table = Dataset(arrow, info=whole.info)
    prompts = len(set(table["prompt_id"][:]))
    console.say(f"    {len(table)} examples, {prompts} prompts, {sum(table['desirable'][:])} thumbs up")
    return table


def recipe_of(cfg: DictConfig) -> Recipe:
    """How policies are trained, from the nodes that name it.

    Raises:
        LabError: the loss waits for a share of swapped pairs, which an audit cannot know.
    """
    objective: Objective = instantiate(cfg.loss)
    if objective.measured:
        raise LabError(
            "loss.flip_rate=measured needs thumbs whose noise is known, and an audit looks for noise that is not. Set "
            "loss.flip_rate to a number."
        )
    return Recipe(
        load=functools.partial(instantiate, cfg.model),
        adapter=instantiate(cfg.adapter),
        objective=objective,
        optimization=instantiate(cfg.optimization),
        update_rule=UpdateRule.of(cfg),
        hardware=instantiate(cfg.trainer),
        lengths=instantiate(cfg.lengths),
        seed=cfg.seed,
    )


def reviewed_rates(file: str | None) -> Rates | None:
    """The rates among random examples that a person has reviewed; None where no file is given.

    Raises:
        LabError: none of the decisions is on a random example.
    """
    if file is None:
        return None
    found = rates_at_random(settle(read_decisions(file), "majority").verdicts.values())
    rates = Rates("reviewed", found["flip_down"], found["flip_up"])
    if rates.desirable.value is None or rates.undesirable.value is None:
        raise LabError(
            f"{file} decides no random examples of both kinds, so it tells no rates. Decide those on the page, too, or "
            "leave out decisions."
        )
    return rates


def against_clean(table: Dataset, result: Audit, seed: int) -> tuple[dict[str, Found], tuple[float, float] | None]:
    """How well each signal found the labels that are not the clean ones, and the true rates; empty where none is."""
    wrong = result.examples.labels != np.array(table["desirable_clean"][:], dtype=bool)
    if not wrong.any():
        return {}, None
    labels = result.examples.labels
    suspicions = {signal.name: signal.suspicion(labels) for signal in result.signals}
    suspicions["combined"] = result.combined.suspicion
    return measure_each(suspicions, wrong, result.examples, seed=seed), flip_rates(table)


def write_tables(folder: Path, table: Dataset, result: Audit, *, top: int, at_random: int, seed: int) -> pa.Table:
    """Write every example's scores, and the examples to review, which are returned."""
    labels, suspicion = result.examples.labels, result.combined.suspicion
    scores = score_table(result.signals, result.examples, suspicion, result.flagged)
    reasons = why(result.signals, labels, suspicion)
    suspects = suspect_table(scores, table, reasons, top=top, at_random=at_random, seed=seed)
    for name, rows in ((SCORES, scores), (SUSPECTS, suspects)):
        with atomic_path(folder / name) as partial:
            pq.write_table(rows, partial, write_page_checksum=True)
    return suspects


def numbers_of(
    cfg: DictConfig,
    table: Dataset,
    result: Audit,
    rates: Sequence[Rates],
    advice: Sequence[Advice],
    measured: dict[str, Found],
) -> dict[str, Any]:
    """All of an audit as plain values."""
    labels = result.examples.labels
    truth = flip_rates(table) if measured else None
    raters: dict[str, Any] | None = None
    if result.votes is not None and result.reliability is not None:
        raters = {record.name: record.as_dict() for record in records(result.votes, result.reliability)}
    return {
        "configuration": OmegaConf.to_container(cfg, resolve=True),
        "fingerprint": fingerprint(table),
        "examples": len(labels),
        "prompts": int(result.examples.prompt_numbers.max()) + 1,
        "desirable": int(labels.sum()),
        "signals": {
            signal.name: {
                "speaks_of": int(signal.known.sum()),
                "against": int((signal.known & (signal.suspicion(labels) > 0.5)).sum()),
            }
            for signal in result.signals
        },
        "silent": result.silent,
        "combined": {"against": int((result.combined.suspicion > 0.5).sum())},
        "bounds": result.bounds.as_dict(),
        "flagged_by_cleanlab": None if result.flagged is None else int(result.flagged.sum()),
        "rates": {found.method: found.as_dict() for found in rates},
        "raters": raters,
        "advice": [asdict(item) for item in advice],
        "clean_labels": {
            "rates": truth and {"desirable": truth[0], "undesirable": truth[1]},
            "found": {name: found.as_dict() for name, found in measured.items()},
        },
    }
