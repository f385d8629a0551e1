"""What a table of examples amounts to: its fingerprint, its classes, and how many labels are wrong."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import orjson

from kto_lab.errors import LabError
from kto_lab.feedback.table import pair_ids_of
from kto_lab.hashing import content_hash, hashes_of_plain

# Imported for its type alone: it takes seconds.
if TYPE_CHECKING:
    from datasets import Dataset

# Rows that are hashed at once.
_HASHED = 16384


def fingerprint(table: "Dataset") -> str:
    """A hash of everything in the table that corruption, training or evaluation can use, independent of row order."""
    names = ["example_id", "finished", "desirable", "desirable_clean", "split", "group", "checks", "score"]
    given = [name for name in ("ratings", "pair_id") if name in table.column_names]
    seen = table.select_columns([*names, *given])
    # A table without pairs keeps the hash that it had before tables could have any.
    paired = "pair_id" in given and any(pair_ids_of(table))
    hashes: list[bytes] = []
    for start in range(0, len(seen), _HASHED):
        columns = seen[start : start + _HASHED]
        ratings = columns.get("ratings", [None] * len(columns["score"]))
        pairs = [columns["pair_id"]] if paired else []
        rows = zip(*(columns[name] for name in names), ratings, *pairs, strict=True)
        plain = not any(score is not None for score in (*columns["score"], *ratings))
        hashes.append(hashes_of_plain(rows) if plain else bytes.fromhex("".join(content_hash(*row) for row in rows)))
    # Rows are sorted by their hashes: missing scores have no order.
    return _content_hash_of(np.sort(np.frombuffer(b"".join(hashes), ">u8")))


def _content_hash_of(hashes: npt.NDArray[np.uint64]) -> str:
    """`content_hash` of a list of hashes, which as texts would take five times the memory."""
    digest = hashlib.sha256(b"[[")
    for start in range(0, len(hashes), _HASHED):
        written = orjson.dumps([f"{number:016x}" for number in hashes[start : start + _HASHED].tolist()])
        digest.update((b"," if start else b"") + written[1:-1])
    digest.update(b"]]")
    return digest.hexdigest()[:16]


def class_counts(table: "Dataset") -> dict[str, dict[str, int]]:
    """Per split: examples, prompts, desirable, undesirable, and labels that differ from the clean ones."""
    import pyarrow.compute as pc

    columns = ["split", "prompt_id", "desirable", "desirable_clean"]
    rows = table.select_columns(columns).with_format("arrow")[:]
    counts: dict[str, dict[str, int]] = {}
    for split in sorted(pc.unique(rows["split"]).to_pylist()):
        part = rows.filter(pc.equal(rows["split"], split))
        desirable = pc.sum(part["desirable"]).as_py()
        counts[split] = {
            "examples": len(part),
            "prompts": pc.count_distinct(part["prompt_id"]).as_py(),
            "desirable": desirable,
            "undesirable": len(part) - desirable,
            "flipped": pc.sum(pc.not_equal(part["desirable"], part["desirable_clean"])).as_py(),
        }
    return counts


def flip_rates(table: "Dataset") -> tuple[float, float] | None:
    """How often the label differs from the clean one, among truly desirable and among truly undesirable examples.

    None where a class has no truly desirable or no truly undesirable example.
    """
    import numpy as np

    label, clean = (np.array(table[name][:], dtype=bool) for name in ("desirable", "desirable_clean"))
    if clean.all() or not clean.any():
        return None
    return float((~label[clean]).mean()), float(label[~clean].mean())


def require_both_classes(table: "Dataset") -> None:
    """LabError unless the table has both desirable and undesirable examples."""
    desirable = sum(table["desirable"][:])
    if 0 < desirable < len(table):
        return
    kind = "desirable (thumbs-up)" if desirable else "undesirable (thumbs-down)"
    raise LabError(
        f"All {len(table)} examples are {kind}. Training on feedback needs both classes: add examples of the other "
        "one, or check feedback.labels, feedback.up_from and feedback.down_to."
        if len(table)
        else "There is no example to train on. Use more data, or a smaller feedback.held_out."
    )
