"""Worked sums by a careless teacher: what the tiny policy is taught before it is aligned."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.prompts import CheckedPrompt, arithmetic
from kto_lab.feedback.table import build_table
from kto_lab.kinds import Seed

SLIP = 10


def worked_sums(prompts: int, answers: int, largest: int, careless: float, seed: Seed, held_out: float) -> Dataset:
    """Sums and differences as a careless teacher works them, all desirable, for `loss=sft`.

    An answer is right, or ten too large: the teacher carries a ten that is not there. The share of slips in a sum is
    `careless` times its first operand (the larger one) over `largest`: small numbers are mostly right, large ones
    mostly wrong. A policy taught on them can give either answer to an unseen sum, so that thumbs have something to
    choose between.

    The split hashes only the prompt, so a sum that is held out here is held out in `feedback=arithmetic`, too.

    Args:
        prompts: how many.
        answers: how often each is worked. The number of slips among them is their share, rounded up or down at random.
        largest: the largest operand.
        careless: share of slips where the first operand is the largest, in [0, 1].
        seed: decides which prompts, and how shares are rounded.
        held_out: share of prompts in the test split.

    Raises:
        LabError: a share is outside [0, 1], `answers` or `largest` is below 1, or there are not so many prompts.
    """
    if answers < 1 or largest < 1:
        raise LabError(f"feedback.answers is {answers} and feedback.largest {largest}; each must be at least 1.")
    if not 0 <= careless <= 1:
        raise LabError(f"feedback.careless is {careless}; it is a share, between 0 and 1.")
    generator = np.random.default_rng([seed, answers])
    rows = (
        row
        for item in arithmetic(prompts, largest, seed)
        for row in _worked(item, answers, careless / largest, generator.random())
    )
    return build_table(rows, source="worked_sums", held_out=held_out)


def _worked(item: CheckedPrompt, answers: int, slope: float, rounding: float) -> Iterator[Mapping[str, Any]]:
    """The rows of one prompt: the slips, which are `slope` times the first operand, and then the right answers."""
    slips = int(slope * _first_operand(item) * answers + rounding)
    right = int(json.loads(item.checks)["answer"])
    for number in range(answers):
        yield {
            "prompt": item.prompt,
            "completion": str(right + SLIP if number < slips else right),
            "desirable": True,
            "group": item.group,
            "checks": item.checks,
            "origin": "worked with a slip" if number < slips else "worked",
        }


def _first_operand(item: CheckedPrompt) -> int:
    found = re.match(r"\d+", str(item.prompt))
    assert found is not None
    return int(found[0])
