"""The command `kto-lab feedback inspect`: what is in the thumbs, before and after a corruption.

Only the table is read, no tokens, unless a model is named: then an example is shown as that model reads it. A run may
leave out further examples, such as those whose prompt is too long.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kto_lab import console
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.feedback.corruption import Corrupted, swapped
from kto_lab.feedback.inspect_example import read_example, show_example
from kto_lab.feedback.inspect_numbers import Balance, Description, advise, describe, lengths_by_class, pairs_of
from kto_lab.feedback.inspect_plots import plot_inspection
from kto_lab.feedback.inspect_tables import show_advice, show_changes, show_tables
from kto_lab.feedback.pairs import pair_noise
from kto_lab.feedback.table import of_split
from kto_lab.feedback.table_numbers import fingerprint
from kto_lab.files import write_json
from kto_lab.keys import INSPECT

NUMBERS, PICTURE = "inspect.json", "inspect.png"


def inspect_feedback(cfg: DictConfig) -> Path:
    """Write the table before and after corruption as numbers and a picture, show it, and return the folder.

    Raises:
        LabError: the folder already holds an inspection, or there is no example to train on.
    """
    check_keys(cfg, INSPECT)
    folder = Path(cfg.output)
    if (folder / NUMBERS).exists():
        raise LabError(f"{folder} holds an inspection. Choose another output, or remove it to inspect again.")
    console.stage("Feedback", "Thumbs become one table; held-out prompts are set apart by a hash.")
    table = instantiate(cfg.feedback)
    train, test = of_split(table, "train"), of_split(table, "test")
    if not len(train):
        raise LabError("No prompt fell into the train split. Use more data, or a smaller feedback.held_out.")
    console.say(f"    {len(table)} examples, {len(train)} of them to train on")
    loaded = instantiate(cfg.model) if cfg.get("model") else None
    example = None if loaded is None else read_example(loaded, train, cfg.example)
    corrupted, swaps = corrupt(cfg.corruption, train)
    after = corrupted.table if any(change.touched for change in corrupted.changes) else train
    before_view = describe(train)
    after_view = before_view if after is train else describe(after)
    test_view = describe(test) if len(test) else None
    balance = balance_of(cfg.deployment_ratio, before_view, after_view)

    training = {"train": after_view} if after is train else {"train before": before_view, "train after": after_view}
    views: Mapping[str, Description] = training if test_view is None else {**training, "test": test_view}
    # Before the tables: a reader who cuts those short (`| head`) keeps the files.
    tables = (after, test) if after is train else (train, after)
    lengths = {name: lengths_by_class(part) for name, part in zip(views, tables, strict=False)}
    plot_inspection(folder / PICTURE, {name: view.classes for name, view in views.items()}, after_view.flips, lengths)
    numbers = {
        "configuration": OmegaConf.to_container(cfg, resolve=True),
        "fingerprint": fingerprint(table),
        "before": asdict(before_view),
        "changes": [asdict(change) for change in corrupted.changes],
        "pair_swaps": swaps,
        "after": asdict(after_view),
        "test": asdict(test_view) if test_view else None,
        "weights": asdict(balance) if balance else None,
        "example": asdict(example) if example else None,
    }
    write_json(folder / NUMBERS, numbers)
    console.stage("Table", "The training split as the loss sees it, and the held-out prompts.")
    show_tables(views, training)
    console.stage("Weights", "lambda_D n_D / (lambda_U n_U) from 1 to 3/2 (Ethayarajh et al. 2024, eq. 8).")
    show_advice(balance)
    if loaded is not None and example is not None:
        console.stage("Example", f"What {loaded.provenance['name']} is asked, and the tokens that are trained.")
        show_example(loaded, example)
    console.stage("Files", "All of it in numbers, and as a picture.")
    console.show_files({"numbers": folder / NUMBERS, "picture": folder / PICTURE})
    return folder


def balance_of(deployment_share: float | None, before: Description, after: Description) -> Balance | None:
    """The weights that the classes of the corrupted training split should have.

    Without a share, deployment is assumed to see the thumbs as they were before any corruption, or after it where they
    were of one class before.

    Raises:
        LabError: the share is not between 0 and 1.
    """
    if deployment_share is None:
        came = before.classes.share
        deployment_share = came if 0 < came < 1 else after.classes.share
    return advise(after.classes, deployment_share)


def corrupt(corruption: DictConfig, train: Dataset) -> tuple[Corrupted, dict[str, Any] | None]:
    """The training split after a `corruption` node, and the counts of pair swaps where it asks for any."""
    console.stage("Corruption", "Of the training split alone: evaluation keeps reading the clean labels.")
    corrupted: Corrupted = instantiate(corruption)(train)
    show_changes(corrupted.changes)
    if corrupted.swap_pairs is None:
        if not corrupted.changes:
            console.say("    none")
        return corrupted, None
    pairs = pairs_of(corrupted.table)
    done = swapped(pairs, corrupted.table["example_id"][:], corrupted.swap_pairs)
    noise = pair_noise(done.pairs, corrupted.table["desirable_clean"][:])
    console.say(f"    {done.swapped} of {len(pairs)} pairs are swapped, for losses of pairs;")
    console.say(f"    by the clean labels {noise.swapped:.1%} are then swapped, {noise.same:.1%} of one class")
    return corrupted, {"pairs": len(pairs), "swapped": done.swapped, "noise": asdict(noise)}
