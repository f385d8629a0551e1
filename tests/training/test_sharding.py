"""A policy in shards, in one process that has all of them."""

from collections.abc import Iterator

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from kto_lab.models.adapters import Policy
from kto_lab.models.number_format import matrices, round_once
from kto_lab.models.quantization import quantised
from kto_lab.models.tiny import random_llama
from kto_lab.training.compiling import blocks
from kto_lab.training.sharding import shard


@pytest.fixture
def sharded() -> Iterator[Policy]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    policy = random_llama(vocabulary=259, seed=0)
    shard(policy, init_device_mesh("cpu", (1,)), number_format="bf16-mixed")
    yield policy
    torch.distributed.destroy_process_group()


def test_blocks_and_matrices_are_found_in_shards_and_rounded_where_they_are(sharded: Policy) -> None:
    whole = random_llama(vocabulary=259, seed=0)
    assert len(blocks(sharded)) == len(blocks(whole)) > 0
    assert len(list(matrices(sharded))) == len(list(matrices(whole))) and not quantised(sharded)
    round_once(sharded)
    round_once(whole)
    for shards, parameter in zip(sharded.parameters(), whole.parameters(), strict=True):
        assert torch.equal(shards.full_tensor(), parameter)  # type: ignore[attr-defined]
    # What is gathered from now on is what was rounded.
    asked = torch.arange(8)[None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sharded(input_ids=asked).logits, whole(input_ids=asked).logits)


def test_what_inference_mode_gathers_can_still_be_trained(sharded: Policy) -> None:
    asked = torch.arange(8)[None]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        sharded(input_ids=asked, use_cache=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sharded(input_ids=asked, use_cache=False).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in sharded.parameters())


def test_what_had_no_gradient_when_it_was_gathered_gets_one_when_it_is_trained(sharded: Policy) -> None:
    asked = torch.arange(8)[None]
    sharded.requires_grad_(False)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        sharded(input_ids=asked, use_cache=False)
    sharded.reshard()  # type: ignore[operator]
    sharded.requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sharded(input_ids=asked, use_cache=False).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in sharded.parameters())
