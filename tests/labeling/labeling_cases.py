"""Answers for the tests of labelers: reviews that say what they think, in words."""

import random
from typing import Any

import torch

from kto_lab.judging.answer import Answer

CPU = torch.device("cpu")
GOOD, BAD = ("lovely", "splendid", "warm"), ("awful", "dull", "cold")
FILLING = ("the", "film", "was", "a", "tale", "of", "two", "towns", "and", "its", "cast")


def reviews(prompts: int = 40, each: int = 3, noise: float = 0.0) -> list[Answer]:
    """Answers whose thumb is which words are in them, but for a share of noise; three in four prompts to train on."""
    rng = random.Random(0)
    answers = []
    for number in range(prompts):
        for _ in range(each):
            up = rng.random() < 0.5
            words = [*rng.choices(FILLING, k=6), rng.choice(GOOD if up else BAD)]
            rng.shuffle(words)
            thumb = up != (rng.random() < noise)
            more: dict[str, Any] = {"split": "test" if number % 4 == 3 else "train", "group": "reviews"}
            answers.append(Answer(f"Film {number}?", " ".join(words), f"row {len(answers)}", thumb, up, more))
    return answers


def training(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.more["split"] == "train"]
