"""From a prompt and a completion to token ids, with every choice stated.

- Chat prompts go through the tokenizer's own chat template, with its generation prompt at the end; plain prompts are
  tokenised as they are (with the tokenizer's beginning-of-sequence token, if it adds one).
- Prompt and completion are tokenised apart, so a prompt has the same tokens whatever follows it, as when it is sampled
  from.
- A finished completion ends with the end-of-turn token of the template (for plain text: the end-of-sequence token), and
  its log-probability counts. A completion that was cut short has none: ending there is not what the model did.
- Over-long examples: the completion is cut on the right, and then counts as not finished. A prompt is never cut. One
  that leaves less than `min_completion` tokens of room is an error, or dropped and counted, as asked.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kto_lab.errors import LabError

# transformers takes seconds to import, and a mistyped length should show before.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt: TypeAlias = str | list[dict[str, str]]

_PROBE = "completion"
# Completions whose ids are remembered: the next run of a sweep has most of them again.
REMEMBERED = 2**16


@dataclass(frozen=True)
class Tokens:
    """One prompt and one completion as token ids."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Lengths:
    """How long an example may be.

    Attributes:
        max_length: tokens of prompt and completion together.
        min_completion: tokens that a prompt must leave for its completion.
        overlong_prompt: what to do with a prompt that leaves less room: stop with an error, or drop the example.
    """

    max_length: int = 512
    min_completion: int = 8
    overlong_prompt: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        """Refuse limits that leave no room."""
        if self.min_completion < 1 or self.max_length <= self.min_completion:
            raise LabError(
                f"lengths: max_length is {self.max_length} and min_completion {self.min_completion}; "
                "max_length must be the larger, and min_completion at least 1."
            )
        if self.overlong_prompt not in ("error", "drop"):
            raise LabError(f"lengths.overlong_prompt is {self.overlong_prompt!r}; it must be 'error' or 'drop'.")


@dataclass
class Encoded:
    """What came out of tokenising a table: one entry a kept example, and what happened to the rest."""

    tokens: list[Tokens]
    kept: list[int]
    dropped: int
    cut: int


class Encoder:
    """Turns prompts and completions into token ids for one tokenizer.

    Raises LabError where the tokenizer has no chat template and a chat prompt comes, and where a template does not
    put the assistant's words after the prompt.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", lengths: Lengths | None = None, *, control: str = ""
    ) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: the policy's.
            lengths: how long an example may be; `Lengths()` where None.
            control: ends every prompt, to ask for a kind of answer. `tokenizer` becomes a copy whose chat template
                writes it, so that whoever uses the template asks likewise.
        """
        self.tokenizer = _controlled(tokenizer, control) if control else tokenizer
        self.control = control
        self.lengths = lengths or Lengths()
        self._end_of_turn: str | None = None
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._completions: dict[tuple[str, bool, bool], tuple[int, ...]] = {}

    @property
    def pad_id(self) -> int:
        """The id that fills padding; masked everywhere, so any valid id does."""
        tokenizer = self.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt, ready to be continued."""
        key = repr(prompt)
        if key not in self._prompts:
            plain = isinstance(prompt, str)
            text = prompt + self.control if isinstance(prompt, str) else self._render(prompt)
            self._prompts[key] = tuple(self.tokenizer(text, add_special_tokens=plain)["input_ids"])
        return self._prompts[key]

    def completion(self, completion: str, *, chat: bool, finished: bool) -> tuple[int, ...]:
        """Token ids of a completion, with the end-of-turn token when it is finished."""
        key = (completion, chat, finished)
        if key not in self._completions:
            ids = list(self.tokenizer(completion, add_special_tokens=False)["input_ids"])
            if len(self._completions) >= REMEMBERED:
                self._completions.clear()
            self._completions[key] = tuple(ids + self._end_ids(chat) if finished else ids)
        return self._completions[key]

    def encode(
        self, prompt: Prompt, completion: str, *, finished: bool = True, where: str = "example"
    ) -> Tokens | None:
        """Tokens of one example within the limits, or None when its prompt is too long and is to be dropped."""
        ids = self.prompt(prompt)
        room = self.lengths.max_length - len(ids)
        if room < self.lengths.min_completion:
            if self.lengths.overlong_prompt == "drop":
                return None
            raise LabError(
                f"{where}: the prompt has {len(ids)} tokens, which leaves {max(room, 0)} of lengths.max_length="
                f"{self.lengths.max_length} for the completion (at least {self.lengths.min_completion} are asked for). "
                "Raise lengths.max_length, shorten the prompt, or set lengths.overlong_prompt=drop."
            )
        return Tokens(ids, self.completion(completion, chat=not isinstance(prompt, str), finished=finished)[:room])

    def with_control(self, control: str) -> "Encoder":
        """The encoder that ends each prompt with a control text; for an encoder that has none yet."""
        assert not self.control
        return Encoder(self.tokenizer, self.lengths, control=control)

    def encode_table(self, table: Any, controls: Sequence[str] | None = None) -> Encoded:
        """Tokens of every row of a table of examples, in order; see `Encoded`.

        `controls` holds the control text of each row, where there is one.
        """
        out = Encoded(tokens=[], kept=[], dropped=0, cut=0)
        encoders = {"": self} | {text: self.with_control(text) for text in set(controls or ()) if text}
        columns = (table["example_id"][:], table["prompt"][:], table["completion"][:], table["finished"][:])
        for index, (identity, prompt, completion, finished) in enumerate(zip(*columns, strict=True)):
            encoder = encoders[controls[index] if controls else ""]
            tokens = encoder.encode(prompt, completion, finished=finished, where=f"example {identity}")
            if tokens is None:
                out.dropped += 1
                continue
            whole = self.completion(completion, chat=not isinstance(prompt, str), finished=finished)
            out.cut += len(whole) > len(tokens.completion)
            out.tokens.append(tokens)
            out.kept.append(index)
        return out

    def stop_ids(self, chat: bool) -> list[int]:
        """Ids that end a sampled completion: the end of the turn and the end of the sequence."""
        ids = {*self._end_ids(chat)[:1]}
        if self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        return sorted(ids)

    def _render(self, messages: Sequence[dict[str, str]], *, answer: str | None = None) -> str:
        if not self.tokenizer.chat_template:
            raise LabError(
                f"The tokenizer of {self.tokenizer.name_or_path or 'this model'} has no chat template, and the prompts "
                "are chat messages. Use an instruction-tuned model, give its folder a chat_template.jinja, or use "
                "feedback with plain-text prompts."
            )
        extra = [] if answer is None else [{"role": "assistant", "content": answer}]
        text = self.tokenizer.apply_chat_template(
            [*messages, *extra], tokenize=False, add_generation_prompt=answer is None
        )
        assert isinstance(text, str)
        return text

    def _end_ids(self, chat: bool) -> list[int]:
        """The tokens that end a completion: what the template writes after the assistant's words."""
        if not chat:
            if self.tokenizer.eos_token_id is None:
                raise LabError("The tokenizer has no end-of-sequence token, so a finished completion cannot be marked.")
            return [self.tokenizer.eos_token_id]
        if self._end_of_turn is None:
            question = [{"role": "user", "content": "prompt"}]
            before, whole = self._render(question), self._render(question, answer=self.control + _PROBE)
            if not whole.startswith(before + _PROBE):
                raise LabError(
                    "The chat template does not put the assistant's words right after the generation prompt, so what "
                    "is trained would differ from what is sampled. Use a template whose rendering of a conversation "
                    "starts with its rendering of the prompt."
                )
            # White space after the last special token is never sampled: the turn has ended by then.
            self._end_of_turn = whole[len(before + _PROBE) :].rstrip() or self.tokenizer.eos_token or ""
        return list(self.tokenizer(self._end_of_turn, add_special_tokens=False)["input_ids"])


def _controlled(tokenizer: "PreTrainedTokenizerBase", control: str) -> "PreTrainedTokenizerBase":
    """A copy of a tokenizer whose chat template ends its generation prompt with a control text."""
    own = copy.deepcopy(tokenizer)
    if isinstance(own.chat_template, str):
        own.chat_template += "{% if add_generation_prompt %}{{ " + json.dumps(control) + " }}{% endif %}"
    return own
