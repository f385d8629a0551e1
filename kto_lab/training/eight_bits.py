"""Optimisers of bitsandbytes, which keep their state in 8 bits."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from kto_lab.errors import LabError
from kto_lab.kinds import Count, NotNegative, Positive, ShareBelowOne


def adamw(
    parameters: Iterable[nn.Parameter],
    lr: NotNegative,
    betas: tuple[ShareBelowOne, ShareBelowOne],
    eps: Positive,
    weight_decay: NotNegative,
    min_8bit_size: Count,
    paged: bool,
) -> Optimizer:
    """AdamW with both moments in 8 bits, in blocks with a scale each (Dettmers et al. 2022, arXiv 2110.02861).

    Args:
        parameters: what is trained.
        lr: the peak of the learning rate.
        betas: decay of the running mean of the gradient, and of its square.
        eps: added to the root of the mean square.
        weight_decay: decoupled, times the learning rate.
        min_8bit_size: tensors of fewer weights keep their moments in 32 bits.
        paged: moments move to the memory of the host while that of the GPU is full; on a CPU there is nothing to move.

    Raises:
        LabError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit
    except ImportError as error:
        raise LabError(
            "optimizer=adamw_8bit needs bitsandbytes, which is not installed: pip install 'kto-lab[quantization]'."
        ) from error
    kind = PagedAdamW8bit if paged else AdamW8bit
    made: Optimizer = kind(
        parameters, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, min_8bit_size=min_8bit_size
    )
    return made
