"""Dropout in training: off unless it is asked for, and then the same masks however a batch is cut.

A policy that drops out is not the one that its reference, its reference point and its evaluation are of, so preference
losses are commonly run without (TRL's `disable_dropout`). An adapter's dropout is asked for by its own number.

A mask is drawn in the order in which a forward pass comes to it, so it would depend on what else is in the pass. Where
something drops out, each example (pair, for a loss of pairs) is therefore run by itself, from a seed of its own.
"""

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from kto_lab.models.adapted import is_adapted
from kto_lab.models.adapters import Policy

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

# Of a configuration's keys those that say how much is dropped, or shaken, in training mode; and those of other heads.
RANDOM = ("drop", "jitter")
OTHER_HEADS = ("summary_", "classifier_")


def dropout_rates(policy: Policy, *, own: bool) -> dict[str, float]:
    """The dropout rates of training.

    Args:
        policy: with its adapter, if it has one.
        own: whether the model's own dropout is on; adapters have theirs in any case.

    Returns:
        Rates above 0, by the key of the model's configuration, or by `adapter.dropout`.
    """
    keys = policy.config.get_text_config().to_dict() if own else {}
    rates = {
        key: float(value)
        for key, value in keys.items()
        if any(word in key for word in RANDOM) and not key.startswith(OTHER_HEADS)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    }
    parts = [part for module in _adapters(policy) for part in module.lora_dropout.values()]
    adapters = [part.p for part in parts if isinstance(part, nn.Dropout)]
    return rates | ({"adapter.dropout": max(adapters)} if any(adapters) else {})


def set_dropout(policy: Policy, *, own: bool) -> None:
    """Put the policy, and each of its adapters' dropout, into the mode that it is trained in."""
    nn.Module.train(policy, own)
    for module in _adapters(policy):
        module.lora_dropout.train()


def mask_seed(seed: int, step: int, place: int) -> int:
    """The seed of the masks of one example, or pair.

    Args:
        seed: the run's.
        step: from 0.
        place: of the example in its step.
    """
    return int(np.random.SeedSequence([seed, step, place]).generate_state(1, np.uint64)[0])


def _adapters(policy: Policy) -> "list[LoraLayer]":
    if not is_adapted(policy):
        return []
    from peft.tuners.lora import LoraLayer

    return [module for module in policy.modules() if isinstance(module, LoraLayer)]
