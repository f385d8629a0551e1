"""Gradient checkpointing: the policy's blocks compute their activations again in the backward pass."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch.utils.checkpoint import checkpoint

from kto_lab.errors import LabError
from kto_lab.models.adapters import Policy
from kto_lab.training.compiling import blocks


@contextmanager
def recomputed(policy: Policy, on: bool) -> Iterator[None]:
    """Let each block keep nothing but its input for the backward pass, for a `with` block.

    transformers' own switch works in training mode alone, which turns on whatever a block drops out. So torch's
    checkpoint is put around each block's forward here; hooks on the block (of fsdp) stay outside of it. Where a block
    is compiled, it is put around the compiled call: torch compiles nothing within a checkpoint that breaks its graph.

    Args:
        policy: any, or any copy of it that is made meanwhile; compiled before, if at all.
        on: whether to do so at all.

    Raises:
        LabError: the architecture does not say what its blocks are.
    """
    chosen = blocks(policy) if on else []
    if on and not chosen:
        raise LabError(
            "The architecture does not say what its blocks are (transformers' _no_split_modules), so there is nothing "
            "to recompute. Use optimization.gradient_checkpointing=false and a smaller micro_batch_tokens."
        )
    with ExitStack() as stack:
        for block in chosen:
            call = block._compiled_call_impl
            if call is None:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
                stack.callback(delattr, block, "forward")
            else:
                block._compiled_call_impl = partial(checkpoint, call, use_reentrant=False)
                stack.callback(setattr, block, "_compiled_call_impl", call)
        yield
