"""Worked sums: what the tiny policy is taught before it is aligned."""

import json

from datasets import Dataset

from kto_lab.feedback.prompts import arithmetic
from kto_lab.feedback.table import build_table


def worked_sums(prompts: int, largest: int, seed: int, held_out: float) -> Dataset:
    """Sums and differences with their right answers, all desirable, for `loss=sft`.

    The split hashes the prompt alone, so a sum that is held out here is held out in `feedback=arithmetic`, too.

    Args:
        prompts: how many.
        largest: the largest operand.
        seed: which ones.
        held_out: share of prompts in the test split.
    """
    rows = (
        {
            "prompt": item.prompt,
            "completion": json.loads(item.checks)["answer"],
            "desirable": True,
            "group": item.group,
            "checks": item.checks,
            "origin": "worked",
        }
        for item in arithmetic(prompts, largest, seed)
    )
    return build_table(rows, source="worked_sums", held_out=held_out)
