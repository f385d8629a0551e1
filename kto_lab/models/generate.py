"""Sampling answers: batched, sorted by length, each row stopped at its end of turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from kto_lab.models.adapters import Policy
from kto_lab.models.logps import evaluating
from kto_lab.models.tokens import Encoder, Prompt


@dataclass(frozen=True)
class Answer:
    """One sampled answer.

    Attributes:
        text: the answer without special tokens.
        tokens: its token ids, with the end-of-turn token when it is finished.
        finished: whether it ended by itself rather than at the token limit.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool


@torch.inference_mode()
def generate(
    model: Policy,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    samples: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    advance: Callable[[int], None] = lambda answers: None,
) -> list[list[Answer]]:
    """Sample answers from a model.

    Args:
        model: a causal language model; put into eval mode for the call, and back.
        encoder: the tokenizer's encoder.
        prompts: chat messages or plain text.
        max_new_tokens: where an unfinished answer is cut.
        temperature: 0 is greedy; above 0 samples from the untruncated distribution at this temperature.
        samples: answers a prompt.
        batch_size: answers in flight at once.
        seed: seeds the sampling; the global random state is left as it was.
        advance: called with the number of answers each time some are done.

    Returns:
        For each prompt, in order, its answers.
    """
    ids = [encoder.prompt(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    answers: list[list[Answer]] = [[] for _ in prompts]
    at_once = max(1, batch_size // samples)
    devices = [model.device] if model.device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(order), at_once):
            rows = order[start : start + at_once]
            chat = not isinstance(prompts[rows[0]], str)
            found = _batch(model, encoder, [ids[i] for i in rows], max_new_tokens, temperature, samples, chat)
            for row, of_prompt in zip(rows, found, strict=True):
                answers[row] = of_prompt
            advance(len(rows) * samples)
    return answers


def _batch(
    model: Policy,
    encoder: Encoder,
    prompts: Sequence[tuple[int, ...]],
    max_new_tokens: int,
    temperature: float,
    samples: int,
    chat: bool,
) -> list[list[Answer]]:
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), encoder.pad_id)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    stop = encoder.stop_ids(chat)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature > 0
        else {"do_sample": False}
    )
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_return_sequences=samples,
        pad_token_id=encoder.pad_id,
        eos_token_id=stop,
        **sampling,
    )
    out = model.generate(
        input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
    )
    found = [_answer(encoder, row.tolist(), set(stop)) for row in out[:, width:]]
    return [found[i : i + samples] for i in range(0, len(found), samples)]


def _answer(encoder: Encoder, ids: list[int], stop: set[int]) -> Answer:
    end = next((place for place, token in enumerate(ids) if token in stop), None)
    kept = ids if end is None else ids[: end + 1]
    text = encoder.tokenizer.decode(ids[:end], skip_special_tokens=True)
    return Answer(text=text, tokens=tuple(kept), finished=end is not None)
