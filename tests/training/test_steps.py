"""Planned steps, cut into micro-batches and dealt to processes."""

import pytest

from kto_lab.models.tokens import Encoder
from kto_lab.training.steps import StepLoader, make_step
from tests.training.test_data import prepared, settings


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("budget", [1, 40, 4000])
@pytest.mark.parametrize("loss", ["kto", "dpo", "sft"])
def test_every_unit_of_a_step_is_seen_by_one_process_once(encoder: Encoder, world: int, budget: int, loss: str) -> None:
    data = prepared(encoder, loss)
    objective, optimization = settings(loss, micro_batch_tokens=budget)
    shares = [
        make_step(data, objective, optimization, 0, share_prompts=True, rank=rank, world=world) for rank in range(world)
    ]
    places = [place for share in shares for part in share.micro_batches for place in part.places]
    assert sorted(places) == [0, 1, 2, 3]
    assert len({len(share.micro_batches) for share in shares}) == 1
    assert len({(share.normaliser, share.tokens, share.units) for share in shares}) == 1
    mismatched = [place for share in shares for part in share.mismatched for place in part.places]
    assert sorted(mismatched) == ([0, 1, 2, 3] if loss == "kto" else [])
    for share in shares:
        for part in share.micro_batches:
            sequences = sum(len(unit) for unit in part.units)
            assert part.desirable.shape == part.reference.shape == (sequences,)
            assert part.desirable.tolist() == [True, False] * len(part.places) or loss != "dpo"


def test_sft_is_the_mean_over_the_tokens_of_the_step(encoder: Encoder) -> None:
    data = prepared(encoder, "sft")
    tokens = sum(len(data.tokens[data.plan.units[unit][0]].completion) for unit in data.plan.steps[0])
    assert make_step(data, *settings("sft"), 0, share_prompts=False).normaliser == tokens
    assert make_step(prepared(encoder), *settings(), 0, share_prompts=False).normaliser == 4


def test_the_loader_starts_after_the_steps_that_are_taken() -> None:
    taken = 0
    loader = StepLoader(lambda number: number, 5, lambda: taken)  # type: ignore[arg-type, return-value]
    assert list(loader) == [0, 1, 2, 3, 4] and len(loader) == 5
    taken = 3
    assert list(loader) == [3, 4]
