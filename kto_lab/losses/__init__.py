"""Losses: pure functions of log-probabilities, and the value functions, reference points and weightings in them."""

from kto_lab.losses.inputs import Controls, Feed, MeanOver, Needs, Pairs, Thumbs, declares
from kto_lab.losses.likelihood import csft, sft, unlikelihood
from kto_lab.losses.noise import FlipRates
from kto_lab.losses.objective import Objective, build
from kto_lab.losses.pairs import apo_down, apo_zero, cdpo, dpo, hinge, holder_dpo, ipo, rdpo
from kto_lab.losses.reference_free import orpo, simpo
from kto_lab.losses.thumbs import apo_zero_unpaired, bco, kto, kto_reference_free, kto_robust

__all__ = [
    "Controls",
    "Feed",
    "FlipRates",
    "MeanOver",
    "Needs",
    "Objective",
    "Pairs",
    "Thumbs",
    "apo_down",
    "apo_zero",
    "apo_zero_unpaired",
    "bco",
    "build",
    "cdpo",
    "csft",
    "declares",
    "dpo",
    "hinge",
    "holder_dpo",
    "ipo",
    "kto",
    "kto_reference_free",
    "kto_robust",
    "orpo",
    "rdpo",
    "sft",
    "simpo",
    "unlikelihood",
]
