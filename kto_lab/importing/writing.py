"""From staged examples to the Parquet table of examples, a batch at a time."""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kto_lab.feedback.table import build_table, features
from kto_lab.importing.screen import as_messages
from kto_lab.importing.stage import Example, Stage

# Columns beside those of the table of examples: the model that answered, the signal, and the place in the source.
MORE = ("model", "signal", "where")
# Rows, and characters, that are written together.
BATCH, BATCH_CHARACTERS = 2000, 16_000_000
UNKNOWN = "unknown"


def write_table(
    stage: Stage,
    target: Path,
    *,
    source: str,
    chat: bool,
    group_by: str,
    held_out: float,
    advance: Callable[[int], None],
) -> None:
    """Write all examples, by position.

    Args:
        stage: the stage, after settling.
        target: the Parquet file.
        source: the name of the examples' group where `group_by` is "none".
        chat: prompts that are text become one user message.
        group_by: "model", "signal", "rater" or "none".
        held_out: share of prompts in the test split.
        advance: called with how many more have been written.
    """
    optional = [
        name
        for name in ("ratings", "pair_id")
        if stage.query(f"SELECT 1 FROM examples WHERE {name} IS NOT NULL LIMIT 1")
    ]
    if stage.messages():
        optional.append("message")
    table = features(chat, optional, stage.message_keys).arrow_schema
    schema = pa.schema([*table, *(pa.field(name, pa.string()) for name in MORE)], metadata=table.metadata)
    with pq.ParquetWriter(target, schema, write_page_checksum=True) as writer:
        for batch in _batches(stage.read_examples()):
            rows = [_row(example, chat=chat, group_by=group_by) for example in batch]
            built = build_table(rows, source=source, held_out=held_out).data.table
            columns = {name: built[name] for name in built.column_names}
            columns.update({name: pa.array([row[name] for row in rows], pa.string()) for name in MORE})
            # A batch in which nobody's ratings are known, no pairs are, or all answers are text has no column for them.
            nothing = {field.name: pa.nulls(len(rows), field.type) for field in schema if field.name not in columns}
            columns |= nothing
            writer.write_table(pa.table([columns[name] for name in schema.names], schema.names).cast(schema))
            advance(len(rows))


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """Examples in batches; those of one answer are in the same batch, since their identities are numbered together."""
    batch: list[Example] = []
    characters = 0
    for _, same in groupby(examples, key=lambda example: example.answer):
        for example in same:
            batch.append(example)
            characters += example.size
        if len(batch) >= BATCH or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _row(example: Example, *, chat: bool, group_by: str) -> dict[str, Any]:
    groups = {"model": example.model, "signal": example.signal, "rater": example.rater}
    return {
        "where": example.where,
        "prompt": as_messages(example.prompt) if chat else example.prompt,
        "completion": example.completion,
        "finished": example.finished,
        "desirable": example.desirable,
        "group": None if group_by == "none" else groups[group_by] or UNKNOWN,
        "rater": example.rater,
        "score": example.score,
        "ratings": example.ratings,
        "pair_id": example.pair_id,
        "timestamp": example.timestamp,
        "origin": "imported",
        "model": example.model,
        "signal": example.signal,
    }
