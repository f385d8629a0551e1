"""Checks of the kernel that packed rows take on a GPU against attention in float32, forward and backward.

Rows hold sequences alone, completions of one prompt, and completions that go on from an earlier pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn

from kto_lab.checking.policies import device
from kto_lab.checking.row import Row, judged, note
from kto_lab.checking.settings import Limits, Size
from kto_lab.models.attention import Kernel
from kto_lab.models.kernel_trial import GRADIENT, OUTPUT, worst_errors
from kto_lab.training.devices import ask

HEAD_SIZES = (32, 64, 96, 128, 192, 256)
# Heads and the key heads that they share; then how many tokens a token sees.
HEADS = ((4, 4), (8, 2))
REACHES = (None, 64)
MEND = "Runs on this GPU leave such a kernel out and are slower for it: report the versions and the card."


def fast_path(size: Size, limits: Limits) -> Row | list[Row]:
    """A row per size of a head."""
    where = device()
    if where.type != "cuda":
        return note("packed in one call", "on GPUs alone; elsewhere attention is called for groups of sequences")
    if not ask().bfloat16:
        return note("packed in one call", "in 16 bits alone, and this GPU has no units for bfloat16")
    return [of_head_size(head_size, where) for head_size in HEAD_SIZES]


def of_head_size(head_size: int, where: torch.device, varlen: Callable[..., Any] = varlen_attn) -> Row:
    """The worst of plain and grouped heads, with a window and without.

    Args:
        head_size: of queries, keys and values.
        where: to compute.
        varlen: called as torch's `varlen_attn`.
    """
    cases = {
        (heads, key_heads, reach): worst_errors(
            Kernel(heads, key_heads, head_size, head_size, None, reach, torch.bfloat16, where), varlen
        )
        for heads, key_heads in HEADS
        for reach in REACHES
    }
    shares = {
        (case, what): error / (OUTPUT if what == "output" else GRADIENT)
        for case, errors in cases.items()
        for what, error in errors.items()
    }
    worst = max(shares, key=shares.__getitem__)
    (heads, key_heads, reach), what = worst
    seen = f", window {reach}" if reach else ""
    return judged(
        f"packed in one call, heads of {head_size}",
        f"{cases[worst[0]][what]:.1e} ({what}, {heads} heads over {key_heads}{seen})",
        limit=f"{OUTPUT if what == 'output' else GRADIENT:g}",
        holds=shares[worst] <= 1,
        mend=MEND,
    )
