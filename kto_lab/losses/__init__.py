"""Losses: pure functions of log-probabilities, and the value functions, reference points and weightings in them."""

from kto_lab.losses.inputs import Feed, MeanOver, Needs, Pairs, Thumbs, declares
from kto_lab.losses.objective import Objective, build
from kto_lab.losses.pairs import dpo
from kto_lab.losses.thumbs import kto, sft

__all__ = ["Feed", "MeanOver", "Needs", "Objective", "Pairs", "Thumbs", "build", "declares", "dpo", "kto", "sft"]
