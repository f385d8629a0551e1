"""How a completion ends: the one thing that training, sampling, lm-eval and a saved policy take from the tokenizer."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from kto_lab.errors import LabError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

# Words before an end, since some tokenizers cut the beginning of a text unlike the rest of it.
_WORDS = "completion"


@dataclass(frozen=True)
class Ending:
    """How a completion ends.

    Attributes:
        ids: what a finished completion ends with, and is scored with.
        text: the same as text.
        stop_ids: tokens each of which ends a sampled completion, in order. The last of `ids` is one of them, unless
            the end is ordinary text.
        tokenizer: reads sampled tokens.
        lead: what the template has a completion begin with before its words, such as an empty thinking block.
    """

    ids: tuple[int, ...]
    text: str
    stop_ids: tuple[int, ...]
    tokenizer: "PreTrainedTokenizerBase" = field(repr=False, compare=False)
    lead: str = ""

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

    def split(self, tokens: Sequence[int]) -> tuple[str, int, bool]:
        """What a sampled completion says, in how many of its tokens, and whether it has an end, which is left out."""
        if not tokens or not self.reached(tokens):
            return self._said(tokens), len(tokens), False
        if tuple(tokens[-len(self.ids) :]) == self.ids:
            length = len(tokens) - len(self.ids)
        elif tokens[-1] in self.stop_ids:
            length = len(tokens) - 1
        else:
            # The end begins inside a token: words and end are parted as text.
            assert self.stop_text is not None
            text = self._said(tokens).partition(self.stop_text)[0]
            return text, max(n for n in range(len(tokens)) if len(self._said(tokens[:n])) <= len(text)), True
        return self._said(tokens[:length]), length, True

    def written(self, config: "GenerationConfig") -> "GenerationConfig":
        """A copy of a model's settings of generation that ends a completion here."""
        own = copy.deepcopy(config)
        own.eos_token_id = self.stop_ids[0] if len(self.stop_ids) == 1 else list(self.stop_ids)
        own.stop_strings = None if self.stop_text is None else [self.stop_text]
        return own

    def _said(self, tokens: Sequence[int]) -> str:
        """The words of a sampled completion, after its lead."""
        own, lead = list(tokens), self._marked_lead
        if lead:
            # Where special tokens mark the words, whatever is before the last such mark is not the answer.
            starts = [place for place in range(len(own)) if own[place : place + len(lead)] == lead]
            own = own[starts[-1] + len(lead) :] if starts else own
        text = str(self.tokenizer.decode(own, skip_special_tokens=True))
        return text if lead else text.removeprefix(self.lead)

    @property
    def read_lead(self) -> str:
        """The lead as whoever leaves out special tokens reads it."""
        return str(self.tokenizer.decode(self._lead_ids, skip_special_tokens=True))

    @cached_property
    def _marked_lead(self) -> list[int]:
        """The ids of a lead that has special tokens, whose text would be lost; of any other, none."""
        return self._lead_ids if set(self._lead_ids) & set(self.tokenizer.all_special_ids) else []

    @cached_property
    def _lead_ids(self) -> list[int]:
        return list(self.tokenizer(self.lead, add_special_tokens=False)["input_ids"]) if self.lead else []

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
