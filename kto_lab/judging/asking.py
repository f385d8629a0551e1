"""Asking a language model yes or no: how much likelier its reply is to begin with yes than with no.

A question is asked twice, once with "yes or no" and once with "no or yes", and the two are averaged, since small models
favour what was named last (or first). Every token that begins a yes ("Yes", "yes", " Yes", "YES", ...) and not a no
counts as one; their probabilities are summed.

All questions about an answer follow the same text of prompt and answer, which is run once: the questions continue from
its keys and values. So the two parts are tokenised separately.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.models.kv_cache import make_cache, next_token_logits
from kto_lab.models.logps import evaluating
from kto_lab.models.template_limit import within_limit
from kto_lab.models.tokenizer import added, dated

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kto_lab.models.load import Loaded

ORDERS = (("yes", "no"), ("no", "yes"))
# Stands for the text in the template.
_TEXT = "<<text>>"


@dataclass(frozen=True)
class Exchange:
    """What is asked about: a prompt, as text, and the answer to it."""

    prompt: str
    completion: str


# What is asked about when nothing is: how the model leans by itself (Zhao et al. 2021, arXiv 2102.09690).
CONTENT_FREE = tuple(Exchange(text, text) for text in ("N/A", "[MASK]", "..."))


@dataclass(frozen=True)
class Leaning:
    """What the model says to a question.

    Attributes:
        margin: log p(yes) - log p(no) in nats, the mean of both orders; above 0 for yes.
        mass: p(yes) + p(no), the mean of both orders: how far it replied to what was asked.
        order: the margin with yes named first minus that with no named first, in nats.
    """

    margin: float
    mass: float
    order: float


@torch.inference_mode()
def ask(
    loaded: "Loaded",
    exchanges: Sequence[Exchange],
    questions: Sequence[str],
    device: torch.device,
    *,
    chat: bool,
    max_tokens: int,
    batch_tokens: int,
    advance: Callable[[int], None] = lambda exchanges: None,
) -> list[list[Leaning] | None]:
    """What a model says to each question about each exchange.

    Args:
        loaded: the model.
        exchanges: (N,) what is asked about.
        questions: (Q,) with yes or no for an answer, such as "Is the answer polite?"
        device: where the model computes.
        chat: ask in a user's turn of the chat template, else in plain text that the model goes on with.
        max_tokens: of what the model reads at once: exchange and question.
        batch_tokens: tokens in one forward pass, padding included.
        advance: called with the number of exchanges each time some are done.

    Returns:
        (N, Q) leanings; None for an exchange that is too long.
    """
    tokenizer, model = dated(loaded.tokenizer, loaded.template_date), loaded.model
    model.to(device)  # type: ignore[arg-type]
    before, after = _frame(tokenizer, chat=chat)
    begin = tokenizer(before, add_special_tokens=False)["input_ids"] if chat else added(tokenizer)[0]
    # A turn's end that is written in an answer is text and ends no turn.
    told = tokenizer([_told(item) for item in exchanges], add_special_tokens=False, split_special_tokens=True)
    heads = [begin + ids for ids in told["input_ids"]] if exchanges else []
    tails = [
        tokenizer(_asked(question, order) + after, add_special_tokens=False)["input_ids"]
        for question in questions
        for order in ORDERS
    ]
    yes, no = _beginnings(tokenizer)
    longest = max(map(len, tails))
    found: list[list[Leaning] | None] = [None] * len(exchanges)
    rows = [row for row, head in enumerate(heads) if len(head) + longest <= max_tokens]
    advance(len(exchanges) - len(rows))
    with evaluating(model):
        for batch in _batches(heads, rows, len(tails), longest, batch_tokens):
            logps = _reply_logps(model, [heads[row] for row in batch], tails, pad_id=tokenizer.eos_token_id or 0)
            # (rows, questions, orders): a token is one of many that begin the reply.
            each = [logps[:, ids].logsumexp(dim=1).view(len(batch), -1, len(ORDERS)) for ids in (yes, no)]
            for place, row in enumerate(batch):
                found[row] = [_leaning(*pair) for pair in zip(each[0][place], each[1][place], strict=True)]
            advance(len(batch))
    return found


def _leaning(yes: Tensor, no: Tensor) -> Leaning:
    """From log-probabilities (orders,) in nats."""
    margins = (yes - no).tolist()
    mass = float((yes.exp() + no.exp()).mean())
    return Leaning(sum(margins) / len(margins), mass, margins[0] - margins[1])


def _batches(
    heads: Sequence[Sequence[int]], rows: Sequence[int], tails: int, longest: int, batch_tokens: int
) -> Iterator[list[int]]:
    """Rows of similar length together, the longest first; all their questions at once are within the budget."""
    left = sorted(rows, key=lambda row: -len(heads[row]))
    while left:
        size = max(1, batch_tokens // (tails * (len(heads[left[0]]) + longest)))
        yield left[:size]
        left = left[size:]


def _reply_logps(
    model: "PreTrainedModel | PeftModel", heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]], *, pad_id: int
) -> Tensor:
    """(heads * tails, vocabulary) float32 log-probabilities of the first token after each head and tail, on the CPU."""
    cache = make_cache(model)
    ids, mask = _left_padded(heads, pad_id, model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    next_token_logits(model, ids, mask, positions, cache)
    cache.batch_repeat_interleave(len(tails))
    more, more_mask = (part.repeat(len(heads), 1) for part in _left_padded(tails, pad_id, model.device))
    starts = mask.sum(1, keepdim=True).repeat_interleave(len(tails), 0)
    positions = (starts + more_mask.cumsum(1) - 1).clamp(min=0)
    mask = torch.cat([mask.repeat_interleave(len(tails), 0), more_mask], 1)
    return next_token_logits(model, more, mask, positions, cache).log_softmax(-1).cpu()


def _left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(rows, width) ids, and 1 where they are no padding."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device)


def _frame(tokenizer: "PreTrainedTokenizerBase", *, chat: bool) -> tuple[str, str]:
    """What the model reads before and after the text: the chat template's, with its generation prompt."""
    if not chat:
        return "", "\nReply:"
    turn = [{"role": "user", "content": _TEXT}]
    with within_limit(tokenizer):
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    before, _, after = str(text).partition(_TEXT)
    return before, after


def _told(exchange: Exchange) -> str:
    return f"Request: {exchange.prompt}\n\nAnswer: {exchange.completion}\n\n"


def _asked(question: str, order: tuple[str, str]) -> str:
    return f"Question: {question} Reply with one word, {order[0]} or {order[1]}."


def _beginnings(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Ids of the tokens that begin a yes and nothing else, and those that begin a no.

    Raises:
        LabError: there is none, as with a tokenizer that begins both with the same token.
    """
    begin: dict[str, set[int]] = {}
    for word in ("yes", "no"):
        texts = [space + form for form in (word, word.capitalize(), word.upper()) for space in ("", " ")]
        begin[word] = {tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in texts}
    yes, no = begin["yes"] - begin["no"], begin["no"] - begin["yes"]
    if not yes or not no:
        raise LabError("The judge's tokenizer begins yes and no with the same token. Use another model.")
    return sorted(yes), sorted(no)
