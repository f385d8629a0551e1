"""Losses: pure functions of log-probabilities, and the value functions, reference points and weightings in them."""

from kto_lab.losses.inputs import Feed, MeanOver, Needs, Pairs, Thumbs, declares
from kto_lab.losses.objective import Objective, build
from kto_lab.losses.pairs import apo_down, apo_zero, cdpo, dpo, hinge, ipo, rdpo
from kto_lab.losses.thumbs import apo_zero_unpaired, kto, sft

__all__ = [
    "Feed",
    "MeanOver",
    "Needs",
    "Objective",
    "Pairs",
    "Thumbs",
    "apo_down",
    "apo_zero",
    "apo_zero_unpaired",
    "build",
    "cdpo",
    "declares",
    "dpo",
    "hinge",
    "ipo",
    "kto",
    "rdpo",
    "sft",
]
