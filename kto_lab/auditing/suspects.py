"""The examples to doubt as tables: every score, and the ones for a reviewer."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset

from kto_lab.auditing.examples import Bools, Examples, Floats, Ints
from kto_lab.auditing.signals import Signal
from kto_lab.feedback.corruption.draws import lowest
from kto_lab.hashing import content_hash

# What a signal's doubt is, in words, by the thumb that was given.
WORDS: Mapping[str, tuple[str, str]] = {
    "out_of_fold": (
        "classifiers of the text, trained on other prompts, expect a thumbs-down",
        "classifiers of the text, trained on other prompts, expect a thumbs-up",
    ),
    "training": (
        "policies trained on other prompts find it less likely than the reference does",
        "policies trained on other prompts find it likelier than the reference does",
    ),
    "raters": ("the other thumbs on this answer say down", "the other thumbs on this answer say up"),
    "contradiction": (
        "nearly the same answers to nearly the same prompt have thumbs down",
        "nearly the same answers to nearly the same prompt have thumbs up",
    ),
}


def ranking(suspicion: Floats, examples: Examples) -> Ints:
    """(N,) rows from the most doubtful on; ties by identity, so that the table's order does not matter."""
    return np.lexsort((np.array(examples.example_ids), -suspicion))


def why(signals: Sequence[Signal], labels: Bools, suspicion: Floats) -> list[str]:
    """(N,) the strongest signal against each label, in words, with the probability that it gives to the other one."""
    doubts = np.stack([np.where(signal.known, signal.suspicion(labels), -1.0) for signal in signals])
    strongest = doubts.argmax(axis=0)
    return [
        f"{WORDS[signals[place].name][0 if up else 1]} ({doubt:.2f})"
        if doubt > 0.5
        else f"no signal alone is against it; together they doubt it by {whole:.2f}"
        for place, up, doubt, whole in zip(
            strongest, labels, doubts[strongest, np.arange(len(labels))], suspicion, strict=True
        )
    ]


def score_table(signals: Sequence[Signal], examples: Examples, suspicion: Floats, flagged: Bools | None) -> pa.Table:
    """One row per example, in the table's order: rank (from 1), suspicion, each signal's (null where it cannot say).

    `flagged_by_cleanlab` is there where the out-of-fold signal was asked.
    """
    rank = np.empty(len(examples), dtype=np.int64)
    rank[ranking(suspicion, examples)] = np.arange(1, len(examples) + 1)
    columns: dict[str, pa.Array] = {
        "example_id": pa.array(examples.example_ids, pa.string()),
        "rank": pa.array(rank),
        "suspicion": pa.array(suspicion),
        **{
            f"signal_{signal.name}": pa.array(signal.suspicion(examples.labels), mask=~signal.known)
            for signal in signals
        },
    }
    if flagged is not None:
        columns["flagged_by_cleanlab"] = pa.array(flagged)
    return pa.table(columns)


def suspect_table(
    scores: pa.Table, table: Dataset, reasons: list[str], *, top: int, at_random: int, seed: int
) -> pa.Table:
    """What a reviewer sees: the first `top` by rank, and as many drawn at random from all examples.

    `sampled_at_random` marks the drawn ones: their decisions tell the rates of all labels without a model. A draw is a
    hash of the example's identity and the seed, so that a smaller one is part of a larger one.
    """
    identities = scores["example_id"].to_pylist()
    drawn = lowest([content_hash("audit sample", seed, identity) for identity in identities], at_random)
    random = np.zeros(len(scores), dtype=bool)
    random[drawn] = True
    ranks = scores["rank"].to_numpy()
    rows = np.flatnonzero((ranks <= top) | random)
    rows = rows[np.argsort(ranks[rows])]
    arrow = table.with_format("arrow")[:]
    whole = scores
    for name in ("prompt", "completion", "desirable", "rater", "group"):
        whole = whole.append_column(arrow.schema.field(name), arrow[name])
    whole = whole.append_column("why", pa.array(reasons, pa.string()))
    return whole.append_column("sampled_at_random", pa.array(random)).take(rows)
