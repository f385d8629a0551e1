"""FSDP2: the policy's weights, gradients and optimiser state in shards, one per process.

The policy that the caller holds is whole before training and after it: evaluation runs it as it is. In between its
parameters are held by a twin, which is sharded block by block: a block is whole while it computes, for the reference
pass and for training.

A forward pass gathers, so all processes make it together. Steps of training have as many micro-batches on each process;
for other work there is `together`.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from kto_lab.errors import LabError
from kto_lab.models.adapted import is_adapted
from kto_lab.models.adapters import Policy
from kto_lab.models.logps import evaluating
from kto_lab.models.through import GATHERED, TOGETHER
from kto_lab.training.compiling import blocks


def sharded_twin(policy: Policy) -> Policy:
    """A twin of the policy that takes over its parameters; the policy itself keeps their shapes alone."""
    owned = list(policy.parameters())
    # What deepcopy finds in its memo is not copied.
    twin: Policy = copy.deepcopy(policy, {id(parameter): parameter for parameter in owned})
    _exchange(policy, {parameter: _like(parameter, torch.empty_like(parameter, device="meta")) for parameter in owned})
    return twin


def returned(sharded: Policy, policy: Policy, *, first: bool) -> None:
    """Give the parameters of a sharded twin back to the policy, whole, on the CPU of the first process.

    Every process has to call it: they gather one parameter after another.

    Args:
        sharded: the twin.
        policy: whose parameters it took over.
        first: whether this is the first process. Elsewhere the policy stays without weights.
    """
    shards = dict(sharded.named_parameters())
    whole = {}
    with torch.no_grad():
        for name, empty in policy.named_parameters():
            shard = shards[name]
            assert isinstance(shard, DTensor)
            values = shard.full_tensor()
            if first:
                whole[empty] = _like(empty, values.cpu())
    if first:
        _exchange(policy, whole)


def shard(policy: Policy, mesh: DeviceMesh, *, number_format: str) -> None:
    """Shard a policy, in place. What is outside of its blocks is gathered by calls of it, and by `through`.

    In "bf16-mixed" the blocks are gathered in bfloat16, which is what autocast would make of their matrices: less talk
    between processes, and no copies that autocast keeps for the whole step. Norms, which autocast leaves in float32,
    are gathered apart from them. So the numbers are those of one device, to rounding.

    Args:
        policy: whole, the same on every process.
        mesh: the processes, one dimension.
        number_format: "32-true" or "bf16-mixed".

    Raises:
        LabError: the architecture does not say what its blocks are.
    """
    inner = policy.get_base_model() if is_adapted(policy) else policy
    whole = blocks(policy)
    if not whole:
        raise LabError(
            f"{type(inner).__name__} does not say what its blocks are (transformers' _no_split_modules), so fsdp has "
            "nothing to shard. Use trainer=ddp, or another architecture."
        )
    narrow = number_format == "bf16-mixed"
    half = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in whole:
        if narrow:
            for part in block.modules():
                own = list(part.parameters(recurse=False))
                if own and all(parameter.ndim == 1 for parameter in own):
                    fully_shard(part, mesh=mesh)
        fully_shard(block, mesh=mesh, mp_policy=half if narrow else MixedPrecisionPolicy())
    # Embeddings, the last norm and the head.
    fully_shard(policy, mesh=mesh)
    setattr(policy, GATHERED, lambda run: run())
    register_fsdp_forward_method(policy, GATHERED)
    setattr(policy, TOGETHER, partial(_keeping_step, policy, mesh))


@contextmanager
def _keeping_step(policy: Policy, mesh: DeviceMesh) -> Iterator[None]:
    """See `together`.

    Before each pass the processes tell one another that there is one to make. Whoever has made its own takes part in
    those of the others with one token, to the end of the block.

    Args:
        policy: in shards.
        mesh: the processes.
    """
    gathered, begin = vars(policy)[GATHERED], vars(policy)[TOGETHER]

    def another(mine: bool) -> bool:
        passes = torch.tensor([float(mine)], device=policy.device)
        torch.distributed.all_reduce(passes, group=mesh.get_group())
        return bool(passes.item())

    def run_together(run: Callable[[], Any]) -> Any:
        another(True)
        return gathered(run)

    setattr(policy, GATHERED, run_together)
    # A block inside of this one is part of it.
    setattr(policy, TOGETHER, nullcontext)
    asking = policy.register_forward_pre_hook(lambda *_: another(True) and None)
    # Training uses the memory of gathered weights again, which must not be that of inference tensors.
    with torch.inference_mode(False), torch.no_grad():
        try:
            yield
        finally:
            asking.remove()
            setattr(policy, GATHERED, gathered)
            setattr(policy, TOGETHER, begin)
        one = torch.zeros(1, 1, dtype=torch.long, device=policy.device)
        with evaluating(policy):
            while another(False):
                policy(input_ids=one, use_cache=False)
        # What is outside of the blocks stays gathered until a backward pass.
        assert isinstance(policy, FSDPModule)
        policy.reshard()


def _like(parameter: nn.Parameter, values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


def _exchange(policy: Policy, new: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Put other parameters in the place of the policy's; those that modules share stay shared."""
    for module in policy.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, new[parameter])
