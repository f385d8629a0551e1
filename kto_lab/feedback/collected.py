"""A table of examples in a file: the shipped ones, and what `feedback collect`, `import`, `label` or `review` wrote."""

import importlib.resources
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.table import OPTIONAL, features
from kto_lab.hashing import content_hash

SHIPPED = ("instruction_checks", "arithmetic")


def from_collected(path: str, train_prompts: int | None) -> Dataset:
    """A table of examples as it was written.

    Args:
        path: a Parquet file that a command of `kto-lab feedback` wrote, or the name of a shipped one.
        train_prompts: use so many prompts of the training split, chosen by hash and the same in every run, smaller
            selections within larger ones; None for all. The test split is always whole.

    Raises:
        LabError: the file is missing or not a table of examples, or `train_prompts` is below 1.
    """
    if train_prompts is not None and train_prompts < 1:
        raise LabError(f"feedback.train_prompts is {train_prompts}; it must be at least 1, or null for all.")
    file = Path(str(importlib.resources.files("kto_lab.feedback") / "data" / f"{path}.parquet"))
    if path not in SHIPPED:
        file = Path(path)
    if not file.is_file():
        raise LabError(
            f"There is no file {file}. Give feedback.path a table that a command of `kto-lab feedback` wrote, or "
            f"one of {', '.join(SHIPPED)}."
        )
    try:
        # The reader of `datasets` would leave a copy in the user's cache.
        found = pq.read_table(file, page_checksum_verification=True)
        chat = pa.types.is_list(found.schema.field("prompt").type)
        keys = [field.name for field in found.schema.field("prompt").type.value_type] if chat else []
        schema = features(chat, [name for name in OPTIONAL if name in found.schema.names], keys)
        table = Dataset(found.select(list(schema)).cast(schema.arrow_schema))
    except (KeyError, ValueError, OSError, pa.ArrowException) as error:
        raise LabError(
            f"{file} is no table of examples: {error}. For data of your own use feedback=file with a column mapping."
        ) from error
    if train_prompts is None:
        return table
    train = {
        identity for identity, split in zip(table["prompt_id"][:], table["split"][:], strict=True) if split == "train"
    }
    chosen = set(sorted(train, key=lambda identity: content_hash("subset", identity))[:train_prompts])
    keep = [row for row, identity in enumerate(table["prompt_id"][:]) if identity not in train or identity in chosen]
    return table.select(keep)
