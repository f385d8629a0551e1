"""Sampling answers: batched, sorted by length; a prompt is run once for all its answers, and an ended answer leaves.

Greedy, or drawn from the whole distribution at a temperature: no truncation, no penalty, whatever the model's folder
suggests, so that what is measured is the policy.

A batch is cut by the tokens that its answers may come to hold in the cache, so that long prompts need no more memory
than short ones. Each answer draws from random numbers of its own, so that it is the same in every batch.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kto_lab.hashing import content_hash
from kto_lab.models.adapters import Policy
from kto_lab.models.ending import Ending
from kto_lab.models.kv_cache import make_cache, next_token_logits
from kto_lab.models.logps import evaluating
from kto_lab.models.products import converted_once
from kto_lab.models.through import together
from kto_lab.models.tokens import Encoder, Prompt

# Tokens of a batch: about 4 GiB of keys and values of a 7 B policy in 16 bits, and all the demo's prompts at once.
BATCH_TOKENS = 32768


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
    batch_tokens: int = BATCH_TOKENS,
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
        batch_tokens: tokens of prompts and answers held at once, padding included; one answer may have more.
        seed: seeds the sampling. An answer depends on it, the prompt, the number of the answer and the model alone.
        advance: called with the number of answers each time some are done.

    Returns:
        For each prompt, in order, its answers.
    """
    ids = [encoder.prompt(prompt) for prompt in prompts]
    chances = _chances(ids, samples, max_new_tokens, seed) if temperature else None
    answers: list[list[Answer]] = [[] for _ in prompts]
    with evaluating(model), together(model):
        for rows, numbers in _batches(list(map(len, ids)), samples, max_new_tokens, batch_tokens):
            ending = encoder.ending(chat=not isinstance(prompts[rows[0]], str))
            found = sample_tokens(
                model,
                [ids[row] for row in rows],
                pad_id=encoder.pad_id,
                ended=ending.reached,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                chances=None if chances is None else chances[rows][:, numbers].flatten(0, 1),
                samples=len(numbers),
            )
            for place, row in enumerate(rows):
                of_prompt = found[place * len(numbers) : (place + 1) * len(numbers)]
                answers[row] += [_answer(ending, drawn) for drawn in of_prompt]
            advance(len(found))
    return answers


def _batches(
    lengths: Sequence[int], samples: int, max_new_tokens: int, batch_tokens: int
) -> Iterator[tuple[list[int], range]]:
    """Prompts of similar length, the longest first, each with the numbers of those of its answers that are in a batch.

    Args:
        lengths: tokens of each prompt.
        samples: answers per prompt.
        max_new_tokens: of an answer.
        batch_tokens: as for `generate`.
    """
    left = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while left:
        at_once = max(1, batch_tokens // (lengths[left[0]] + max_new_tokens))
        rows, left = left[: max(1, at_once // samples)], left[max(1, at_once // samples) :]
        for start in range(0, samples, at_once):
            yield rows, range(start, min(start + at_once, samples))


def _chances(prompts: Sequence[tuple[int, ...]], samples: int, max_new_tokens: int, seed: int) -> Tensor:
    """(prompts, samples, tokens) numbers from 0 to 1, drawn for each prompt by itself, whatever it is asked beside."""
    met: Counter[tuple[int, ...]] = Counter()
    found = torch.empty(len(prompts), samples, max_new_tokens, dtype=torch.float64)
    for place, prompt in enumerate(prompts):
        own = torch.Generator().manual_seed(int(content_hash("answers", seed, list(prompt), met[prompt]), 16) % 2**63)
        found[place] = torch.rand(samples, max_new_tokens, dtype=torch.float64, generator=own)
        # The same prompt once more has other answers.
        met[prompt] += 1
    return found


@torch.inference_mode()
def sample_tokens(
    model: Policy,
    prompts: Sequence[tuple[int, ...]],
    *,
    pad_id: int,
    ended: Callable[[Sequence[int]], bool],
    max_new_tokens: int,
    temperature: float = 1.0,
    chances: Tensor | None = None,
    samples: int = 1,
) -> list[list[int]]:
    """Continue prompts, which should be of similar length.

    The prompts run once, then one token per step for the answers still open. Under autocast a weight is converted once.

    Args:
        model: a causal language model, in eval mode.
        prompts: token ids.
        pad_id: any valid token id.
        ended: whether an answer ends with its last token; asked after each.
        max_new_tokens: where an unfinished answer is cut.
        temperature: of draws.
        chances: (prompts * samples, max_new_tokens) float64 random numbers from 0 to 1, one for each token to draw, the
            answers of a prompt in a row; None for greedy answers.
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
    with converted_once(model, model.device):
        return _continued(
            model,
            input_ids.to(model.device),
            mask.to(model.device),
            ended=ended,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            chances=None if chances is None else chances.to(model.device),
            samples=samples,
        )


def _continued(
    model: Policy,
    input_ids: Tensor,
    mask: Tensor,
    *,
    ended: Callable[[Sequence[int]], bool],
    max_new_tokens: int,
    temperature: float,
    chances: Tensor | None,
    samples: int,
) -> list[list[int]]:
    """As `sample_tokens`, of (prompts, tokens) ids padded on the left and their mask."""
    cache = make_cache(model)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = next_token_logits(model, input_ids, mask, positions, cache)
    if samples > 1:
        cache.batch_repeat_interleave(samples)
        logits, mask, positions = (part.repeat_interleave(samples, 0) for part in (logits, mask, positions))
    found: list[list[int]] = [[] for _ in range(len(input_ids) * samples)]
    open_rows = list(range(len(found)))
    position = positions[:, -1:]
    for number in range(max_new_tokens):
        token = logits.argmax(-1) if chances is None else _drawn(logits / temperature, chances[:, number])
        for row, drawn in zip(open_rows, token.tolist(), strict=True):
            found[row].append(drawn)
        going_on = [place for place, row in enumerate(open_rows) if not ended(found[row])]
        if not going_on or number + 1 == max_new_tokens:
            break
        if len(going_on) < len(open_rows):
            # An answer that has ended leaves the batch, so that the last ones are not paid for by all.
            kept = torch.tensor(going_on, device=model.device)
            cache.batch_select_indices(kept)
            token, mask, position = token[kept], mask[kept], position[kept]
            chances = None if chances is None else chances[kept]
            open_rows = [open_rows[place] for place in going_on]
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = next_token_logits(model, token[:, None], mask, position, cache)
    return found


def _drawn(logits: Tensor, chances: Tensor) -> Tensor:
    """(rows,) tokens drawn from the distributions of (rows, vocabulary) logits: the quantiles of (rows,) chances."""
    reached = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    found = torch.searchsorted(reached, chances[:, None] * reached[:, -1:], right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1)


def _answer(ending: Ending, ids: list[int]) -> Answer:
    said = ending.split(ids)
    return Answer(said.words, tuple(ids), said.finished, said.length, said.reasoning)
