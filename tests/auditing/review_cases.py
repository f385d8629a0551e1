"""Suspects for the tests of the review, and a table that they are from."""

from typing import Any

import pyarrow as pa
from datasets import Dataset

from kto_lab.feedback.table import build_table

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & \u2028 \x00"
RIGHT_TO_LEFT = "\u0645\u0631\u062d\u0628\u0627 \u202eABC"


def table(examples: int = 6) -> Dataset:
    """Chat prompts; every other answer has a thumb up."""
    rows = [
        {
            "prompt": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "Hello?"},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": f"Question {number} {HOSTILE.replace(chr(0), '')}"},
            ],
            "completion": f"answer {number} {HOSTILE.replace(chr(0), '')}",
            "desirable": number % 2 == 0,
        }
        for number in range(examples)
    ]
    return build_table(rows, source="cases", held_out=0)


def suspects(examples: Dataset, *, at_random: tuple[int, ...] = ()) -> pa.Table:
    """All examples of a table as suspects, the last one the most suspect; those that were drawn at random."""
    count = len(examples)
    rows: list[dict[str, Any]] = [
        {
            "example_id": row["example_id"],
            "rank": count - number,
            "suspicion": (number + 1) / (count + 1),
            "prompt": row["prompt"],
            "completion": row["completion"],
            "desirable": row["desirable"],
            "why": f"reason {number} <b>{RIGHT_TO_LEFT}",
            "signal_out_of_fold": 0.5,
            "signal_training": None if number == 0 else 2.5,
            "sampled_at_random": number in at_random,
        }
        for number, row in enumerate(examples)
    ]
    return pa.Table.from_pylist(rows)
