"""How a completion ends: the one thing that training, sampling, lm-eval and a saved policy take from the tokenizer."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from kto_lab.errors import LabError
from kto_lab.models.reasoning import Markup

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

# Words before an end, since some tokenizers cut the beginning of a text unlike the rest of it.
_WORDS = "completion"


class Sampled(NamedTuple):
    """A sampled completion, read.

    Attributes:
        words: without lead, reasoning and end.
        length: tokens before its end.
        finished: whether it has an end.
        reasoning: what the template's markup sets apart from the words; "" where there is none.
    """

    words: str
    length: int
    finished: bool
    reasoning: str = ""


@dataclass(frozen=True)
class Ending:
    """How a completion ends.

    Attributes:
        ids: what a finished completion ends with, and is scored with.
        text: the same as text.
        stop_ids: tokens each of which ends a sampled completion, in order. The last of `ids` is one of them, unless
            the end is ordinary text.
        tokenizer: reads sampled tokens.
        markup: what the template writes before a completion's words.
    """

    ids: tuple[int, ...]
    text: str
    stop_ids: tuple[int, ...]
    tokenizer: "PreTrainedTokenizerBase" = field(repr=False, compare=False)
    markup: Markup = field(default_factory=Markup)

    @property
    def stop_text(self) -> str | None:
        """The text that ends a sampled completion, where no token does."""
        return None if self.ids[-1] in self.stop_ids else self.text

    @cached_property
    def texts(self) -> list[str]:
        """Every text that ends a completion, the longest first."""
        found = {self.text, *(self._read([token]) for token in self.stop_ids)}
        return sorted((text for text in found if text.strip()), key=lambda text: (-len(text), text))

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether a completion that had not ended before its last token ends with it."""
        if tokens[-1] in self.stop_ids:
            return True
        # Sampled text may be cut into other tokens than training's; none is shorter than a byte.
        return self.stop_text is not None and self.stop_text in self._read(tokens[-len(self.text.encode()) :])

    def split(self, tokens: Sequence[int]) -> Sampled:
        """What a sampled completion says."""
        if not tokens or not self.reached(tokens):
            return self._said(tokens, finished=False)
        if tuple(tokens[-len(self.ids) :]) == self.ids:
            return self._said(tokens[: -len(self.ids)], finished=True)
        if tokens[-1] in self.stop_ids:
            return self._said(tokens[:-1], finished=True)
        # The end begins inside a token: words and end are parted as text.
        assert self.stop_text is not None
        before = self._text(tokens).partition(self.stop_text)[0]
        length = max(n for n in range(len(tokens)) if len(self._text(tokens[:n])) <= len(before))
        reasoning, words = self._parted(before)
        return Sampled(words, length, True, reasoning)

    def written(self, config: "GenerationConfig") -> "GenerationConfig":
        """A copy of a model's settings of generation that ends a completion here."""
        own = copy.deepcopy(config)
        own.eos_token_id = self.stop_ids[0] if len(self.stop_ids) == 1 else list(self.stop_ids)
        own.stop_strings = None if self.stop_text is None else [self.stop_text]
        return own

    @property
    def read_markup(self) -> Markup:
        """The markup as whoever leaves out special tokens reads it."""
        return Markup(*map(self._without_specials, (self.markup.lead, self.markup.opens, self.markup.closes)))

    def _said(self, tokens: Sequence[int], *, finished: bool) -> Sampled:
        reasoning, words = self._parted(self._text(tokens))
        return Sampled(words, len(tokens), finished, reasoning)

    def _text(self, tokens: Sequence[int]) -> str:
        """Sampled tokens as text, with special tokens where the markup has such."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=not self._specials))

    def _parted(self, text: str) -> tuple[str, str]:
        """The reasoning and the words of a sampled text, without special tokens."""
        reasoning, words = self.markup.part(text)
        return self._without_specials(reasoning), self._without_specials(words)

    def _without_specials(self, text: str) -> str:
        for special in self._specials:
            text = text.replace(special, "")
        return text

    @cached_property
    def _specials(self) -> list[str]:
        """The texts of special tokens, the longest first; none where the markup has none of them."""
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        marks = (self.markup.lead, self.markup.opens, self.markup.closes)
        marked = any(special in mark for special in added for mark in marks)
        return sorted(added, key=len, reverse=True) if marked else []

    def _read(self, tokens: Sequence[int]) -> str:
        return read(self.tokenizer, tokens)


def end_of_text(tokenizer: "PreTrainedTokenizerBase", more: Collection[int]) -> Ending:
    """The ending of plain text: the end-of-sequence token.

    Args:
        tokenizer: the policy's.
        more: further tokens that end a completion.

    Raises:
        LabError: the tokenizer has no such token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise LabError("The tokenizer has no end-of-sequence token, so a finished completion cannot be marked.")
    return Ending((end,), read(tokenizer, [end]), tuple(sorted({end, *more})), tokenizer)


def end_of_turn(tokenizer: "PreTrainedTokenizerBase", tail: str, more: Collection[int]) -> Ending:
    """The ending of a chat answer: what the template writes after it, up to the first control token.

    Where there is none in it, the end is all of that text; where there is nothing but white space, the end of the text.

    Args:
        tokenizer: the policy's.
        tail: what the template writes after the answer.
        more: further tokens that end a completion.

    Raises:
        LabError: the tokenizer cannot write the end, or there is none.
    """
    if not tail.strip():
        return end_of_text(tokenizer, more)
    controls = control_tokens(tokenizer)
    ids = _after_words(tokenizer, tail)
    first = next((place for place, token in enumerate(ids) if token in controls), None)
    # White space after the last word of an end would never be sampled: the turn has ended by then.
    ids = _after_words(tokenizer, tail.rstrip()) if first is None else ids[: first + 1]
    text = tail.rstrip() if first is None else read(tokenizer, ids)
    if not _letters(tail).startswith(_letters(text)) or _letters(read(tokenizer, ids)) != _letters(text):
        raise LabError(
            f"The chat template ends an answer with {tail.strip()!r}, and the tokenizer reads that back as "
            f"{read(tokenizer, ids)!r}: what training appends would not be where sampling stops. Add the text to the "
            "tokenizer's special tokens, or use a template that ends a turn with one of them."
        )
    stops = {*more, *([] if first is None else ids[-1:])}
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    return Ending(tuple(ids), text, tuple(sorted(stops)), tokenizer)


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Ids that a template can mark a turn with: special tokens, and added ones that are no white space."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    return added | set(tokenizer.all_special_ids)


def read(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int]) -> str:
    """Tokens as text, special ones and all white space included."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _after_words(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The tokens of a text that follows other words."""
    words = list(tokenizer(_WORDS, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(_WORDS + text, add_special_tokens=False)["input_ids"])
    if whole[: len(words)] == words:
        return whole[len(words) :]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _letters(text: str) -> str:
    return "".join(text.split())
