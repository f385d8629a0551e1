"""Sampling against plain recomputation: no cache, no batch."""

from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from kto_lab.models import generate as generating
from kto_lab.models.generate import Answer, generate
from kto_lab.models.kv_cache import next_token_logits
from kto_lab.models.tokens import Encoder

PROMPTS = ["1+1=", "a much longer prompt than the others:", "2", "12+30="]


@pytest.fixture
def lively(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Random weights large enough that what came before matters to what comes next."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


def greedily(model: LlamaForCausalLM, encoder: Encoder, prompt: str, tokens: int) -> tuple[tuple[int, ...], bool]:
    ids = list(encoder.prompt(prompt))
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in encoder.ending(chat=False).stop_ids:
            return tuple(ids[start:]), True
    return tuple(ids[start:]), False


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_greedy_answers_are_those_of_one_prompt_at_a_time(
    lively: LlamaForCausalLM, encoder: Encoder, batch_tokens: int
) -> None:
    found = generate(lively, encoder, PROMPTS, max_new_tokens=12, batch_tokens=batch_tokens)
    assert [len(answers) for answers in found] == [1] * 4
    for prompt, (answer,) in zip(PROMPTS, found, strict=True):
        assert (answer.tokens, answer.finished) == greedily(lively, encoder, prompt, 12)


def test_an_answer_that_ends_stops_there_and_the_others_go_on(lively: LlamaForCausalLM, encoder: Encoder) -> None:
    found = [a for answers in drawn(lively, encoder, seed=0, samples=40, tokens=30) for a in answers]
    ended = [answer for answer in found if answer.finished]
    assert 0 < len(ended) < len(found)
    for answer in found:
        stops = [token in encoder.ending(chat=False).stop_ids for token in answer.tokens]
        assert stops.count(True) == answer.finished and (not answer.finished or stops[-1])
        assert answer.finished or len(answer.tokens) == 30
        assert "<|im_end|>" not in answer.text
        assert answer.text == encoder.tokenizer.decode(answer.tokens, skip_special_tokens=True)
    assert len({len(answer.tokens) for answer in ended}) > 1


def drawn(model: LlamaForCausalLM, encoder: Encoder, *, seed: int, samples: int, tokens: int = 6) -> list[list[Answer]]:
    return generate(
        model, encoder, PROMPTS, max_new_tokens=tokens, temperature=1.0, samples=samples, batch_tokens=5120, seed=seed
    )


def test_sampling_is_a_function_of_the_seed_and_leaves_the_global_state(
    lively: LlamaForCausalLM, encoder: Encoder
) -> None:
    torch.manual_seed(9)
    state = torch.random.get_rng_state()
    first = drawn(lively, encoder, seed=1, samples=3)
    torch.manual_seed(10)
    assert drawn(lively, encoder, seed=1, samples=3) == first != drawn(lively, encoder, seed=2, samples=3)
    torch.manual_seed(9)
    drawn(lively, encoder, seed=1, samples=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [len(answers) for answers in first] == [3] * 4


def test_samples_follow_the_whole_distribution(lively: LlamaForCausalLM, encoder: Encoder) -> None:
    temperature = 2.0
    found = generate(
        lively, encoder, ["7+"], max_new_tokens=1, temperature=temperature, samples=4000, batch_tokens=10**6, seed=0
    )[0]
    with torch.no_grad():
        logits = lively(torch.tensor([encoder.prompt("7+")])).logits[0, -1]
    wanted = (logits / temperature).softmax(-1)
    counts = torch.bincount(torch.tensor([answer.tokens[0] for answer in found]), minlength=len(wanted))
    expected = wanted * 4000
    common = expected > 5
    chi = ((counts - expected)[common] ** 2 / expected[common]).sum()
    assert chi < common.sum() + 5 * (2 * common.sum()) ** 0.5
    rare = ~common
    assert abs(counts[rare].sum() - expected[rare].sum()) < 5 * expected[rare].sum() ** 0.5 + 1


@pytest.mark.parametrize(("samples", "budget"), [(1, 60), (3, 60), (3, 200), (2, 1)])
def test_batches_hold_no_more_tokens_than_they_may_and_sampled_answers_are_the_same(
    lively: LlamaForCausalLM, encoder: Encoder, samples: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*PROMPTS, PROMPTS[0]]
    more: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.0, "samples": samples, "seed": 3}
    whole = generate(lively, encoder, asked, batch_tokens=10**6, **more)
    assert whole[0] != whole[-1], "the same prompt once more has other answers"
    fed: list[tuple[int, ...]] = []
    held: list[int] = []

    def listen(model: Any, ids: torch.Tensor, mask: torch.Tensor, *rest: Any) -> torch.Tensor:
        if ids.shape[1] > 1 or mask.shape[1] == 1:
            fed.append(tuple(ids.shape))
        held.append(mask.numel())
        return next_token_logits(model, ids, mask, *rest)

    monkeypatch.setattr(generating, "next_token_logits", listen)
    assert generate(lively, encoder, asked, batch_tokens=budget, **more) == whole
    longest = max(len(encoder.prompt(prompt)) for prompt in PROMPTS)
    assert max(held) <= max(budget, longest + 6)
    assert [width for _, width in fed] == sorted((width for _, width in fed), reverse=True)
    assert len(fed) > 1 or budget >= samples * len(asked) * (longest + 6)
    # Some of the prompts alone have the same answers, as where processes share them.
    assert generate(lively, encoder, asked[1:3], batch_tokens=budget, **more) == whole[1:3]


def test_mode_and_progress(lively: LlamaForCausalLM, encoder: Encoder) -> None:
    lively.train()
    counted: list[int] = []
    generate(
        lively, encoder, PROMPTS, max_new_tokens=1, samples=2, temperature=1.0, batch_tokens=3, advance=counted.append
    )
    assert lively.training and sum(counted) == 8
    assert generate(lively, encoder, [], max_new_tokens=1) == []


def test_chat_answers_end_with_the_turn(lively: LlamaForCausalLM, encoder: Encoder) -> None:
    with torch.no_grad():
        lively.model.norm.weight.mul_(0)
    prompt = [{"role": "user", "content": "hello"}]
    # All logits are equal now, so the likeliest token is the first: the end of the turn.
    ((answer,),) = generate(lively, encoder, [prompt], max_new_tokens=5)
    assert answer == Answer(text="", tokens=(0,), finished=True, length=0)
