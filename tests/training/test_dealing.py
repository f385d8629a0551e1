"""A batch is dealt so that no process waits long for another, and its gradient is that of one process."""

import random
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from kto_lab.errors import LabError
from kto_lab.models.logps import completion_logps
from kto_lab.models.rows import cut_micro_batches
from kto_lab.models.sequences import Tokens, Unit
from kto_lab.models.tokens import Encoder
from kto_lab.training.data import TrainingData
from kto_lab.training.dealing import deal
from kto_lab.training.steps import AlignmentData, make_step
from tests.training.test_data import prepared, settings

HOW: dict[str, Any] = {"token_budget": 100, "share_prompts": True, "packed": True}


def batch(seed: int, size: int = 32, *, prompts: int = 10**6) -> list[Unit]:
    """Thumbs whose lengths differ as those of real ones do: half of the tokens are in a fifth of the completions."""
    draw = random.Random(seed)
    return [
        [Tokens((draw.randrange(prompts),) * 40, tuple(range(2 + int(draw.lognormvariate(4.5, 1)))))]
        for _ in range(size)
    ]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("prompts", [1, 3, 10**6])
@pytest.mark.parametrize("more", [{}, {"packed": False}, {"share_prompts": False}, {"token_budget": 10**6}])
def test_every_unit_is_dealt_once_and_all_have_as_many_micro_batches(
    processes: int, prompts: int, more: dict[str, Any]
) -> None:
    for seed in range(5):
        units = batch(seed, 9, prompts=prompts)
        dealt = deal(units, processes=processes, **(HOW | more))
        assert sorted(unit for share in dealt.shares for part in share for unit in part) == list(range(9))
        assert len({len(share) for share in dealt.shares}) == 1 and len(dealt.shares) == processes
        assert all(part for share in dealt.shares for part in share)
        assert min(dealt.tokens) > 0


def test_one_process_has_the_batch_as_it_is_cut() -> None:
    units = batch(0, prompts=8)
    assert deal(units, processes=1, **HOW).shares == [cut_micro_batches(units, **HOW)]


def test_units_that_stand_apart_are_shared_evenly() -> None:
    dealt = deal(batch(0, 12), processes=4, apart=True, **HOW)
    assert [[len(part) for part in share] for share in dealt.shares] == 4 * [3 * [1]]
    assert max(dealt.tokens) / fmean(dealt.tokens) < 1.5


def test_no_process_has_many_more_tokens_than_the_mean() -> None:
    ratios = []
    for seed in range(50):
        units = batch(seed)
        tokens = deal(units, processes=8, token_budget=8192, share_prompts=True, packed=True).tokens
        # One completion that is longer than an even share cannot be divided.
        assert max(tokens) <= max(1.1 * fmean(tokens), *(len(sequence) for (sequence,) in units))
        ratios.append(max(tokens) / fmean(tokens))
    # Dealt by the number of units, it is 2.9.
    assert fmean(ratios) < 1.3


def test_a_prompt_with_most_of_the_tokens_is_shared_by_several() -> None:
    units: list[Unit] = [[Tokens((1, 2), (3,) * 50)] for _ in range(16)]
    tokens = deal(units, processes=4, token_budget=10**6, share_prompts=True, packed=True).tokens
    assert max(tokens) == min(tokens)


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    with pytest.raises(LabError, match="batch_size"):
        deal(batch(0, 2), processes=3, **HOW)


def gradient(model: LlamaForCausalLM, data: TrainingData, processes: int) -> torch.Tensor:
    """Of the sum of the losses over processes, as the module takes it: each micro-batch on its own."""
    objective, optimization = settings(batch_size=8, micro_batch_tokens=60)
    model.zero_grad()
    for rank in range(processes):
        step = make_step(data, objective, optimization, 0, share_prompts=True, rank=rank, world=processes)
        for part in step.micro_batches:
            logps = completion_logps(model, part.units, pad_id=0, share_prompts=True)
            signs = 1 - 2 * part.desirable.float()
            ((signs * torch.sigmoid(0.1 * logps)).sum() / step.normaliser).backward()
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def test_the_gradient_is_that_of_one_process(model: LlamaForCausalLM, encoder: Encoder) -> None:
    data = prepared(encoder, batch_size=8)
    one = gradient(model, data, 1)
    for processes in (2, 4, 8):
        torch.testing.assert_close(gradient(model, data, processes), one, rtol=1e-4, atol=1e-7)


def test_the_balance_is_of_the_steps_of_the_run(encoder: Encoder) -> None:
    data = prepared(encoder, batch_size=8)
    steps = AlignmentData(data, *settings(batch_size=8), share_prompts=True)
    assert steps.balance(1) == 1
    assert 1 <= steps.balance(4) < steps.balance(8)
