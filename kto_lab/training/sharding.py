"""FSDP2: a policy's weights, gradients and optimiser state in shards, one per process.

A policy is sharded block by block, before it is evaluated for the first time: a block is whole while it computes. What
needs the architecture's own classes and whole weights, which is saving, gets a copy that is filled on the first process
alone.

A forward pass gathers, so all processes make it together. Steps of training have as many micro-batches on each process;
for other work there is `together`.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from kto_lab.errors import LabError
from kto_lab.models.adapted import is_adapted
from kto_lab.models.adapters import Policy
from kto_lab.models.logps import evaluating
from kto_lab.models.through import GATHERED, TOGETHER
from kto_lab.training.compiling import blocks
from kto_lab.training.hardware import Hardware
from kto_lab.training.update_rule import UpdateRule


def processes_of(hardware: Hardware) -> DeviceMesh:
    """All processes of the run, which have joined, in one dimension."""
    return init_device_mesh(hardware.device.type, (hardware.processes,))


def divided(policy: Policy, hardware: Hardware, update_rule: UpdateRule) -> Policy | None:
    """Shard the policy that is trained, in place, where the strategy is fsdp.

    Args:
        policy: with its first weights, the same on every process.
        hardware: says whether, and over which processes.
        update_rule: is tried on shards first.

    Returns:
        What `gathered` fills: a copy of the policy with the shapes of its weights alone; None where nothing is sharded.

    Raises:
        LabError: the optimiser needs whole tensors, or the architecture does not say what its blocks are.
    """
    if hardware.strategy != "fsdp":
        return None
    mesh = processes_of(hardware)
    vectors = any(parameter.requires_grad and parameter.ndim == 1 for parameter in policy.parameters())
    update_rule.check_sharded(mesh, vectors=vectors)
    # What deepcopy finds in its memo is not copied.
    shapes = {id(own): _like(own, torch.empty_like(own, device="meta")) for own in policy.parameters()}
    empty: Policy = copy.deepcopy(policy, shapes)
    shard(policy, mesh, number_format=hardware.number_format)
    return empty


def gathered(policy: Policy, empty: Policy, *, first: bool) -> Policy:
    """Fill a copy of a policy in shards with its weights, on the CPU of the first process.

    Every process has to call it: they gather one parameter after another.

    Args:
        policy: in shards.
        empty: the copy that `divided` made of it.
        first: whether this is the first process. Elsewhere the copy stays without weights.

    Returns:
        The copy.
    """
    shards = dict(policy.named_parameters())
    whole: dict[nn.Parameter, nn.Parameter] = {}
    with torch.no_grad():
        for name, shape in empty.named_parameters():
            own = shards[name]
            assert isinstance(own, DTensor)
            values = own.full_tensor()
            if first:
                whole[shape] = _like(shape, values.cpu())
    if first:
        for module in empty.modules():
            for name, shape in list(module.named_parameters(recurse=False)):
                # What modules share stays shared.
                setattr(module, name, whole[shape])
    return empty


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
    # The first pass settles for good what gets a gradient, and in which format. It must not be one of a reference, of
    # which nothing is trained, or one in inference mode.
    with torch.no_grad(), torch.autocast(policy.device.type, dtype=torch.bfloat16, enabled=narrow):
        _run_a_token(policy)
    _let_go(policy)
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
    gathering, begin = vars(policy)[GATHERED], vars(policy)[TOGETHER]

    def another(mine: bool) -> bool:
        passes = torch.tensor([float(mine)], device=policy.device)
        torch.distributed.all_reduce(passes, group=mesh.get_group())
        return bool(passes.item())

    def run_together(run: Callable[[], Any]) -> Any:
        another(True)
        return gathering(run)

    setattr(policy, GATHERED, run_together)
    # A block inside of this one is part of it.
    setattr(policy, TOGETHER, nullcontext)
    # Ahead of what gathers, as for whoever has no pass to make.
    asking = policy.register_forward_pre_hook(lambda *_: another(True) and None, prepend=True)
    # Training uses the memory of gathered weights again, which must not be that of inference tensors.
    with torch.inference_mode(False), torch.no_grad():
        try:
            yield
        finally:
            asking.remove()
            setattr(policy, GATHERED, gathering)
            setattr(policy, TOGETHER, begin)
        while another(False):
            _run_a_token(policy)
        _let_go(policy)


def _run_a_token(policy: Policy) -> None:
    with evaluating(policy):
        policy(input_ids=torch.zeros(1, 1, dtype=torch.long, device=policy.device), use_cache=False)


def _let_go(policy: Policy) -> None:
    """Reshard what is outside of the blocks, which otherwise stays gathered until a backward pass."""
    assert isinstance(policy, FSDPModule)
    policy.reshard()


def _like(parameter: nn.Parameter, values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=parameter.requires_grad)
