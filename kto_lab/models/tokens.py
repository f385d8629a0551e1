"""From a prompt and a completion to token ids, with every choice stated.

- Chat prompts go through the tokenizer's own chat template, with its generation prompt at the end; plain prompts are
  tokenised as they are (with the tokenizer's beginning-of-sequence token, if it adds one).
- Prompt and completion are tokenised apart, so a prompt has the same tokens whatever follows it, as when it is sampled
  from.
- A finished completion ends as the template ends a turn (for plain text: with the end-of-sequence token), and the
  log-probability of that counts. A completion that was cut short has no end: ending there is not what the model did.
  See `Ending`.
- What a completion says is text. Where it has the text of a special token inside, that is read letter by letter, as the
  tokenizer reads any other word; where it ends with the end of a turn, that is the end, and is not written twice.
- A prompt is read as the tokenizer reads it for whoever serves the policy, and for lm-eval: the text of a special token
  is that token.
- A tokenizer that ends each text by itself (`add_eos_token`) is kept from it: a prompt does not end before its answer.
- A chat template that asks for the date (`strftime_now`) gets a date that is fixed.
- Over-long examples: the completion is cut on the right, and then counts as not finished. A prompt is never cut. One
  that leaves less than `min_completion` tokens of room is an error, or dropped and counted, as asked.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kto_lab.errors import LabError
from kto_lab.models.ending import Ending, control_tokens, end_of_text, end_of_turn, read
from kto_lab.models.sequences import Tokens
from kto_lab.models.tokenizer import TEMPLATE_DATE, added, controlled, dated, ending_nothing, hashes

# transformers takes seconds to import, and a mistyped length should show before.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kto_lab.models.load import Loaded

Prompt: TypeAlias = str | list[dict[str, str]]

_PROBE = "completion"
# Completions whose ids are remembered: the next run of a sweep has most of them again.
REMEMBERED = 2**16


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
    """A tokenised table: one entry per kept example, and what happened to the rest.

    Attributes:
        tokens: one entry per kept example.
        kept: their rows.
        dropped: examples left out because their prompt is too long.
        cut: kept examples whose completion was cut to fit.
        ended: kept examples whose completion had the text of its end, which is not written twice.
        special: kept examples whose completion has the text of a special token inside, which is read as text.
        special_prompts: kept examples whose chat prompt has the text of a special token, which is read as that token.
    """

    tokens: list[Tokens]
    kept: list[int]
    dropped: int = 0
    cut: int = 0
    ended: int = 0
    special: int = 0
    special_prompts: int = 0


class Encoder:
    """Turns prompts and completions into token ids for one tokenizer.

    Attributes:
        tokenizer: what prompts and completions are read by, here and by lm-eval.
        released: what a saved policy gets: the same, but its template writes the day that it is asked.
        control: ends every prompt.
        lengths: how long an example may be.

    Raises LabError where the tokenizer has no chat template and a chat prompt comes, where a template does not put the
    assistant's words after the prompt, and where the tokenizer cannot write the end of a turn.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        lengths: Lengths | None = None,
        *,
        control: str = "",
        template_date: str = TEMPLATE_DATE,
        ends: Collection[int] = (),
    ) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: the policy's.
            lengths: how long an example may be; `Lengths()` where None.
            control: ends every prompt, to ask for a kind of answer. The chat template writes it, so that whoever uses
                the template asks likewise.
            template_date: what a chat template gets that asks for the date.
            ends: ids that end what the model generates beside the end of turn; those of ordinary text are passed over.
        """
        self.control = control
        self.lengths = lengths or Lengths()
        self._given = tokenizer
        self._date = template_date
        self._ends = [token for token in ends if token in control_tokens(tokenizer)]
        self.released = controlled(ending_nothing(tokenizer), control)
        self.tokenizer = dated(self.released, template_date)
        self._begin = read(self.tokenizer, added(self.tokenizer)[0])
        self._special = _any_of(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._endings: dict[bool, Ending] = {}
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._completions: dict[tuple[str, bool, bool], tuple[int, ...]] = {}

    @classmethod
    def of(cls, loaded: "Loaded", lengths: Lengths | None = None) -> "Encoder":
        """The encoder of a loaded model: what the model's settings of generation name as an end is one."""
        ends = loaded.model.generation_config.eos_token_id
        named = ends if isinstance(ends, list) else [] if ends is None else [ends]
        return cls(loaded.tokenizer, lengths, template_date=loaded.template_date, ends=named)

    @property
    def pad_id(self) -> int:
        """The id that fills padding; masked everywhere, so any valid id does."""
        tokenizer = self.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    @property
    def hashes(self) -> dict[str, str]:
        """What the ids of a prompt depend on, as hashes: `tokenizer`, and `chat_template` with its date."""
        return hashes(self.tokenizer)

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt, ready to be continued."""
        key = repr(prompt)
        if key not in self._prompts:
            plain = isinstance(prompt, str)
            text = prompt + self.control if isinstance(prompt, str) else self._render(prompt)
            # A text that has its beginning-of-sequence token gets no second one; nor does it from lm-eval.
            adds = plain and not (self._begin and text.startswith(self._begin))
            self._prompts[key] = tuple(self.tokenizer(text, add_special_tokens=adds)["input_ids"])
        return self._prompts[key]

    def completion(self, completion: str, *, chat: bool, finished: bool) -> tuple[int, ...]:
        """Token ids of a completion, with its end when it is finished or has the text of the end itself."""
        key = (completion, chat, finished)
        if key not in self._completions:
            words, ended = self._without_end(completion, chat)
            ids = [*self.tokenizer(words, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
            if set(ids) & {self.tokenizer.convert_tokens_to_ids(text) for text in self._special.findall(words)}:
                raise LabError(
                    f"The completion {completion[:80]!r} has the text of a special token, which this tokenizer cannot "
                    "read as text. Take it out of the completion."
                )
            if len(self._completions) >= REMEMBERED:
                self._completions.clear()
            self._completions[key] = tuple([*ids, *self.ending(chat).ids] if finished or ended else ids)
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
        return Encoder(self._given, self.lengths, control=control, template_date=self._date, ends=self._ends)

    def encode_table(self, table: Any, controls: Sequence[str] | None = None) -> Encoded:
        """Tokens of every row of a table of examples, in order; see `Encoded`.

        `controls` holds the control text of each row, where there is one.
        """
        out = Encoded(tokens=[], kept=[])
        encoders = {"": self} | {text: self.with_control(text) for text in set(controls or ()) if text}
        columns = (table["example_id"][:], table["prompt"][:], table["completion"][:], table["finished"][:])
        for index, (identity, prompt, completion, finished) in enumerate(zip(*columns, strict=True)):
            encoder = encoders[controls[index] if controls else ""]
            tokens = encoder.encode(prompt, completion, finished=finished, where=f"example {identity}")
            if tokens is None:
                out.dropped += 1
                continue
            chat = not isinstance(prompt, str)
            whole = self.completion(completion, chat=chat, finished=finished)
            words, ended = self._without_end(completion, chat)
            out.cut += len(whole) > len(tokens.completion)
            out.ended += ended
            out.special += self._special.search(words) is not None
            out.special_prompts += chat and any(self._special.search(turn["content"]) for turn in prompt)
            out.tokens.append(tokens)
            out.kept.append(index)
        return out

    def ending(self, chat: bool) -> Ending:
        """How the answer to a chat prompt, or to a plain one, ends."""
        if chat not in self._endings:
            self._endings[chat] = self._end_of_turn() if chat else end_of_text(self.tokenizer, self._ends)
        return self._endings[chat]

    def _without_end(self, completion: str, chat: bool) -> tuple[str, bool]:
        """A completion without the texts of its end, and whether it had any."""
        if not chat and self.tokenizer.eos_token_id is None:
            return completion, False
        ending = self.ending(chat)
        # An end that is ordinary text cannot be told from the same text inside: sampling stops at the first.
        words = completion if ending.stop_text is None else completion.partition(ending.stop_text)[0]
        while end := next((text for text in ending.texts if words.rstrip().endswith(text)), ""):
            words = words.rstrip().removesuffix(end)
        return words, words != completion

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

    def _end_of_turn(self) -> Ending:
        """What the template writes after the assistant's words."""
        question = [{"role": "user", "content": "prompt"}]
        before, whole = self._render(question), self._render(question, answer=self.control + _PROBE)
        if not whole.startswith(before + _PROBE):
            raise LabError(
                "The chat template does not put the assistant's words right after the generation prompt, so what "
                "is trained would differ from what is sampled. Use a template whose rendering of a conversation "
                "starts with its rendering of the prompt."
            )
        return end_of_turn(self.tokenizer, whole[len(before + _PROBE) :], self._ends)


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of some texts, and nothing where there are none."""
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")
