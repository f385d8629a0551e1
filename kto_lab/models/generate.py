"""Sampling answers: batched, sorted by length; a prompt is run once for all its answers, and an ended answer leaves.

Greedy, or drawn from the whole distribution at a temperature: no truncation, no penalty, whatever the model's folder
suggests, so that what is measured is the policy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kto_lab.models.adapters import Policy
from kto_lab.models.ending import Ending
from kto_lab.models.kv_cache import make_cache, next_token_logits
from kto_lab.models.logps import evaluating
from kto_lab.models.tokens import Encoder, Prompt


@dataclass(frozen=True)
class Answer:
    """One sampled answer.

    Attributes:
        text: the answer without special tokens, and without its reasoning where the chat template has markup for that.
        tokens: its token ids, with its end when it is finished.
        finished: whether it ended by itself rather than at the token limit.
        length: tokens before the end.
        reasoning: what was thought before the answer.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool
    length: int
    reasoning: str = ""


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
        samples: answers per prompt.
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
            ending = encoder.ending(chat=not isinstance(prompts[rows[0]], str))
            found = sample_tokens(
                model,
                [ids[i] for i in rows],
                pad_id=encoder.pad_id,
                ended=ending.reached,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                samples=samples,
            )
            for place, row in enumerate(rows):
                of_prompt = found[place * samples : (place + 1) * samples]
                answers[row] = [_answer(ending, drawn) for drawn in of_prompt]
            advance(len(rows) * samples)
    return answers


@torch.inference_mode()
def sample_tokens(
    model: Policy,
    prompts: Sequence[tuple[int, ...]],
    *,
    pad_id: int,
    ended: Callable[[Sequence[int]], bool],
    max_new_tokens: int,
    temperature: float,
    samples: int = 1,
) -> list[list[int]]:
    """Continue prompts, which should be of similar length, drawing from the global random state.

    The prompts run once, then one token per step for the answers still open.

    Args:
        model: a causal language model, in eval mode.
        prompts: token ids.
        pad_id: any valid token id.
        ended: whether an answer ends with its last token; asked after each.
        max_new_tokens: where an unfinished answer is cut.
        temperature: as for `generate`.
        samples: answers per prompt.

    Returns:
        The answers, those of a prompt in a row, each with the tokens that ended it.
    """
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    input_ids, mask = input_ids.to(model.device), mask.to(model.device)
    cache = make_cache(model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = next_token_logits(model, input_ids, mask, positions, cache)
    if samples > 1:
        cache.batch_repeat_interleave(samples)
        logits, mask, positions = (part.repeat_interleave(samples, 0) for part in (logits, mask, positions))
    found: list[list[int]] = [[] for _ in range(len(prompts) * samples)]
    open_rows = list(range(len(found)))
    position = positions[:, -1:]
    for _ in range(max_new_tokens):
        token = _draw(logits, temperature)
        for row, drawn in zip(open_rows, token.tolist(), strict=True):
            found[row].append(drawn)
        going_on = [place for place, row in enumerate(open_rows) if not ended(found[row])]
        if not going_on:
            break
        if len(going_on) < len(open_rows):
            # An answer that has ended leaves the batch, so that the last ones are not paid for by all.
            kept = torch.tensor(going_on, device=model.device)
            cache.batch_select_indices(kept)
            token, mask, position = token[kept], mask[kept], position[kept]
            open_rows = [open_rows[place] for place in going_on]
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = next_token_logits(model, token[:, None], mask, position, cache)
    return found


def _draw(logits: Tensor, temperature: float) -> Tensor:
    """(rows,) the next tokens: the likeliest, or drawn at a temperature."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]


def _answer(ending: Ending, ids: list[int]) -> Answer:
    said = ending.split(ids)
    return Answer(said.words, tuple(ids), said.finished, said.length, said.reasoning)
