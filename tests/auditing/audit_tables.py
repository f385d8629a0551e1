"""Tables of examples for the tests of audits: answers whose look says whether they are good, and thumbs, some wrong."""

from typing import Any

import numpy as np
from datasets import Dataset

from kto_lab.feedback.table import build_table

SUBJECTS = ("rivers", "bread", "winter", "trains", "chess", "cheese", "maps", "bees", "glass", "ships")


def looks(prompts: int = 120, *, flips_down: float = 0.0, flips_up: float = 0.0, seed: int = 0) -> Dataset:
    """Four answers per prompt. Good ones end in a full stop, and a share of each class has the other thumb."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(prompts):
        subject = SUBJECTS[number % len(SUBJECTS)]
        for answer in range(4):
            good = answer % 2 == 0
            words = " ".join(rng.choice(SUBJECTS, size=6))
            wrong = rng.random() < (flips_down if good else flips_up)
            rows.append(
                {
                    "prompt": f"Write a sentence about {subject}, number {number}.",
                    "completion": f"{words}." if good else f"{words} and",
                    "desirable": good != wrong,
                    "desirable_clean": good,
                    "split": "train",
                }
            )
    return build_table(rows, source="looks", held_out=0.0)


def several_thumbs(
    answers: int = 200,
    *,
    raters: tuple[tuple[float, float], ...],
    share_up: float = 0.5,
    named: bool = True,
    seed: int = 0,
) -> Dataset:
    """Every rater judges every answer, with their own chance of a thumb down on a good and up on a bad answer."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(answers):
        good = bool(rng.random() < share_up)
        for place, (missed, false) in enumerate(raters):
            wrong = rng.random() < (missed if good else false)
            rows.append(
                {
                    "prompt": f"question {number}",
                    "completion": f"answer {number}",
                    "desirable": good != wrong,
                    "desirable_clean": good,
                    "rater": f"rater {place}" if named else None,
                    "split": "train",
                }
            )
    return build_table(rows, source="raters", held_out=0.0)


def wrong_labels(table: Dataset) -> np.ndarray:
    """(N,) where the label is not the clean one."""
    return np.array(table["desirable"][:]) != np.array(table["desirable_clean"][:])
