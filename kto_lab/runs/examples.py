"""The first stage of a run: the table of examples, what can be measured on it, and its corruption."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from datasets import Dataset

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.evaluation.judge import check_judge
from kto_lab.evaluation.settings import Evaluation
from kto_lab.feedback.corruption import Corrupted
from kto_lab.feedback.table import of_split
from kto_lab.feedback.table_numbers import class_counts, fingerprint
from kto_lab.models.reference import Reference
from kto_lab.runs.process_cache import NO_CACHE, Node, ProcessCache
from kto_lab.runs.record import Record


class Examples(NamedTuple):
    """What a run learns from and is measured on.

    Attributes:
        test: the held-out part of the table.
        evaluation: what can be measured on it.
        train: the training part, corrupted.
    """

    test: Dataset
    evaluation: Evaluation
    train: Corrupted


def read_examples(
    feedback: Node,
    corruption: Callable[[Dataset], Corrupted],
    evaluation: Evaluation,
    reference: Reference,
    record: Record,
    cache: ProcessCache,
) -> Examples:
    """The table of a run, its training part corrupted."""
    table = read_feedback(feedback, record, ("train", "test"), cache)
    train, test = of_split(table, "train"), of_split(table, "test")
    evaluation = evaluation_on(test, evaluation, reference, record)
    corrupted = corruption(train)
    for change in corrupted.changes:
        flipped = change.flipped_to_desirable + change.flipped_to_undesirable
        narration.say(
            f"    {change.name}: {flipped} thumbs flipped, {change.removed} examples removed; "
            f"{change.desirable_after} desirable and {change.examples_after - change.desirable_after} undesirable left"
        )
    return Examples(test, evaluation, corrupted)


def read_feedback(feedback: Node, record: Record, needed: Sequence[str], cache: ProcessCache = NO_CACHE) -> Dataset:
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


def evaluation_on(table_test: Dataset, settings: Evaluation, reference: Reference, record: Record) -> Evaluation:
    """What can be evaluated on held-out prompts, against a reference; what is left out is said.

    Raises:
        LabError: something that was asked for by name cannot be, or the judge cannot be loaded.
    """
    found, left_out = settings.on(table_test)
    if left_out:
        narration.say(f"    {left_out}")
    if not reference.exists:
        narration.say("    implicit rewards and KL are not measured: there is no reference")
        found = replace(found, reward_examples=0, kl_prompts=0)
    if found.judge is not None:
        record.data["judge"] = check_judge(found.judge)
    return found
