"""From a prompt and a completion to token ids, with every choice stated.

- Chat prompts go through the tokenizer's own chat template, with its generation prompt at the end; plain prompts are
  tokenised as they are (with the tokenizer's beginning-of-sequence token, if it adds one).
- A prompt has the same tokens whatever follows it: those that it has when it is sampled from.
- The completion of a chat prompt is what the template writes for it after the prompt in the whole conversation (see
  `turns`). Its tokens are those that follow the prompt's in the whole text; where a token of the whole text begins in
  the prompt and ends in the completion, the completion is tokenised apart. What a template's own mask leaves out before
  the completion is read with the prompt.
- A finished completion ends as the template ends a turn (for plain text: with the end-of-sequence token), and the
  log-probability of that counts, unless the template's mask leaves it out. A completion that was cut short has no end:
  ending there is not what the model did. See `Ending`.
- What a completion says is text. Where it has the text of a special token inside, that is read letter by letter, as the
  tokenizer reads any other word; where it ends with the end of a turn, that is the end, and is not written twice.
- A prompt is read as the tokenizer reads it for whoever serves the policy, and for lm-eval: the text of a special token
  is that token.
- A tokenizer that ends each text by itself (`add_eos_token`) is kept from it: a prompt does not end before its answer.
- A chat template that asks for the date (`strftime_now`) gets a date that is fixed.
- Over-long examples: the completion is cut on the right, and then counts as not finished. A prompt is never cut. One
  that leaves less than `min_completion` tokens of room is an error, or dropped and counted, as asked; so is an example
  that the chat template refuses.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from kto_lab.errors import LabError
from kto_lab.kinds import AtLeastOne
from kto_lab.models.ending import Ending, control_tokens, end_of_text, end_of_turn, read
from kto_lab.models.sequences import Encoded, Tokens, completions_of, places_of
from kto_lab.models.tokenizer import TEMPLATE_DATE, added, controlled, dated, ending_nothing, hashes
from kto_lab.models.turns import Conversations, Message, RefusedByTemplateError
from kto_lab.values import check_fields

# transformers takes seconds to import, and a mistyped length should show before.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kto_lab.models.load import Loaded

Prompt: TypeAlias = str | list[dict[str, str]]
# An answer: its text, or an assistant's message where that holds more.
Completion: TypeAlias = str | Message

# Completions whose ids are remembered: the next run of a sweep has most of them again.
REMEMBERED = 2**16


@dataclass(frozen=True)
class Lengths:
    """How long an example may be.

    Attributes:
        max_length: tokens of prompt and completion together.
        min_completion: tokens that a prompt must leave for its completion.
        overlong_prompt: what to do with a prompt that leaves less room: stop with an error, or drop the example.
        refused_by_template: what to do with an example that the chat template refuses: likewise.
    """

    max_length: AtLeastOne = 512
    min_completion: AtLeastOne = 8
    overlong_prompt: Literal["error", "drop"] = "error"
    refused_by_template: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        """Refuse limits that leave no room."""
        check_fields(self, "lengths")
        if self.max_length <= self.min_completion:
            raise LabError(
                f"lengths.max_length is {self.max_length}; it must be larger than lengths.min_completion, "
                f"{self.min_completion}."
            )


class Encoder:
    """Turns prompts and completions into token ids for one tokenizer.

    Attributes:
        tokenizer: what prompts and completions are read by, here and by lm-eval.
        released: what a saved policy gets: the same, but its template writes the day that it is asked.
        control: ends every prompt.
        lengths: how long an example may be.

    Raises LabError where the tokenizer has no chat template and a chat prompt comes, where it is not known what a
    template writes after a prompt, and where the tokenizer cannot write the end of a turn.
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
        self._chat = Conversations(self.tokenizer, control)
        self._controls = {read(tokenizer, [token]): token for token in control_tokens(tokenizer)}
        self._control = _any_of(self._controls)
        self._endings: dict[bool, Ending] = {}
        self._prompts: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._completions: dict[tuple[str, str, bool], _Said] = {}

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

    def prompt(self, prompt: Prompt, *, where: str = "prompt") -> tuple[int, ...]:
        """Token ids of a prompt, ready to be continued.

        Raises:
            RefusedByTemplateError: the chat template refuses it; the message says where it is.
        """
        try:
            return self._asked(prompt)[1]
        except RefusedByTemplateError as error:
            raise RefusedByTemplateError(f"{where}: {error}") from error

    def completion(self, prompt: Prompt, completion: Completion, *, finished: bool) -> tuple[int, ...]:
        """Token ids of an answer to a prompt, with its end when it is finished or has the text of the end itself.

        What a template's mask leaves out is not among them; see `encode` for what comes before.
        """
        return self._said(prompt, completion, finished=finished).ids

    def encode(
        self, prompt: Prompt, completion: Completion, *, finished: bool = True, where: str = "example"
    ) -> Tokens | None:
        """Tokens of one example within the limits, or None when its prompt is too long and is to be dropped.

        Raises:
            RefusedByTemplateError: the chat template refuses the example.
            LabError: the prompt is too long, or the completion cannot be read.
        """
        ids = self.prompt(prompt, where=where)
        try:
            said = self._said(prompt, completion, finished=finished)
        except RefusedByTemplateError as error:
            raise RefusedByTemplateError(f"{where}: {error}") from error
        ids = (*ids, *said.header)
        room = self.lengths.max_length - len(ids)
        if room < self.lengths.min_completion:
            if self.lengths.overlong_prompt == "drop":
                return None
            raise LabError(
                f"{where}: the prompt has {len(ids)} tokens, which leaves {max(room, 0)} of lengths.max_length="
                f"{self.lengths.max_length} for the completion (at least {self.lengths.min_completion} are asked for). "
                "Raise lengths.max_length, shorten the prompt, or set lengths.overlong_prompt=drop."
            )
        return Tokens(ids, said.ids[:room])

    def notes(self, *, chat: bool) -> tuple[str, ...]:
        """What the chat template does with every answer, in sentences; none where it writes the words and their end."""
        return self._chat.notes() if chat else ()

    def with_control(self, control: str) -> "Encoder":
        """The encoder that ends each prompt with a control text; for an encoder that has none yet."""
        assert not self.control
        return Encoder(self._given, self.lengths, control=control, template_date=self._date, ends=self._ends)

    def fitting(self, table: Any, controls: Sequence[str] | None = None) -> Encoded:
        """Which rows of a table of examples can be trained on.

        Where none is to be dropped, nothing is tokenised and all are kept: one that does not fit is an error once it is
        used. See `encode_table` for the arguments.
        """
        if "drop" in (self.lengths.overlong_prompt, self.lengths.refused_by_template):
            return self.encode_table(table, controls)
        return Encoded(tokens=[], kept=list(range(len(table))))

    def encode_table(self, table: Any, controls: Sequence[str] | None = None) -> Encoded:
        """Tokens of every row of a table of examples, in order; see `Encoded`.

        `controls` holds the control text of each row, where there is one.
        """
        out = Encoded(tokens=[], kept=[])
        encoders = {"": self} | {text: self.with_control(text) for text in set(controls or ()) if text}
        columns = (table["prompt"][:], completions_of(table), table["finished"][:], places_of(table))
        for index, (prompt, completion, finished, where) in enumerate(zip(*columns, strict=True)):
            encoder = encoders[controls[index] if controls else ""]
            try:
                tokens = encoder.encode(prompt, completion, finished=finished, where=where)
            except RefusedByTemplateError:
                if self.lengths.refused_by_template == "error":
                    raise
                out.refused += 1
                continue
            if tokens is None:
                out.dropped += 1
                continue
            whole = encoder._said(prompt, completion, finished=finished)
            out.cut += len(whole.ids) > len(tokens.completion)
            out.ended += whole.ended
            out.special += whole.special
            out.special_prompts += not isinstance(prompt, str) and any(
                self._special.search(turn["content"]) for turn in prompt
            )
            out.tokens.append(tokens)
            out.kept.append(index)
        return out

    def taken(self, table: Any) -> list[int]:
        """The rows of a table of examples whose prompts the chat template takes: all, unless such are to be dropped."""
        if self.lengths.refused_by_template == "error":
            return list(range(len(table)))
        return [row for row, prompt in enumerate(table["prompt"][:]) if self._takes(prompt)]

    def check(self, table: Any) -> None:
        """Read the prompts of a table of examples.

        Raises:
            RefusedByTemplateError: the chat template refuses one; the message says where it was read.
        """
        for prompt, where in zip(table["prompt"][:], places_of(table), strict=True):
            self.prompt(prompt, where=where)

    def ending(self, chat: bool) -> Ending:
        """How the answer to a chat prompt, or to a plain one, ends."""
        if chat not in self._endings:
            self._endings[chat] = self._end_of_turn() if chat else end_of_text(self.tokenizer, self._ends)
        return self._endings[chat]

    def _takes(self, prompt: Prompt) -> bool:
        try:
            return isinstance(prompt, str) or bool(self._asked(prompt))
        except RefusedByTemplateError:
            return False

    def _asked(self, prompt: Prompt) -> tuple[str, tuple[int, ...]]:
        """The text of a prompt and its ids."""
        key = repr(prompt)
        if key not in self._prompts:
            plain = isinstance(prompt, str)
            text = prompt + self.control if isinstance(prompt, str) else self._chat.prompt(prompt)
            # A text that has its beginning-of-sequence token gets no second one; nor does it from lm-eval.
            adds = plain and not (self._begin and text.startswith(self._begin))
            self._prompts[key] = (text, tuple(self.tokenizer(text, add_special_tokens=adds)["input_ids"]))
        return self._prompts[key]

    def _said(self, prompt: Prompt, completion: Completion, *, finished: bool) -> "_Said":
        chat = not isinstance(prompt, str)
        # The answers to a plain prompt are read alike, whatever it is.
        key = (repr(prompt) if chat else "", repr(completion), finished)
        if key not in self._completions:
            if len(self._completions) >= REMEMBERED:
                self._completions.clear()
            self._completions[key] = self._read(prompt, completion, finished=finished)
        return self._completions[key]

    def _read(self, prompt: Prompt, completion: Completion, *, finished: bool) -> "_Said":
        if isinstance(prompt, str):
            if not isinstance(completion, str):
                raise LabError("An answer with tool calls or reasoning needs a prompt of chat messages.")
            words, ended = self._without_end(completion, False)
            ids = self._letters(words)
            special = self._special.search(words) is not None
            return _Said((*ids, *self.ending(False).ids) if finished or ended else tuple(ids), ended, special)
        given: Message = {"role": "assistant", "content": completion} if isinstance(completion, str) else completion
        words, ended = self._without_end(given["content"] or "", True)
        answer = {**given, "content": words}
        turn = self._chat.turn(prompt, answer)
        body, end = self._parted(turn.text)
        if not turn.ends_after(len(body)):
            end = ()
        before, header, body = self._asked(prompt)[0], body[: turn.begin], body[turn.begin : turn.end]
        special = any(self._special.search(text or "") for text in answer.values())
        ids = self._as_text(before + header, body, words) if special else self._after(before + header, body)
        read_before = tuple(self._after(before, header)) if header else ()
        return _Said((*ids, *end) if finished or ended else tuple(ids), ended, special, read_before)

    def _parted(self, turn: str) -> tuple[str, tuple[int, ...]]:
        """A turn without what the template ends it with, and the ids of its end."""
        ending, tail = self.ending(True), self._chat.shape.tail
        if turn.endswith(tail):
            return turn.removesuffix(tail), ending.ids
        if not tail.strip():
            return turn, ending.ids
        # A turn may end otherwise than one of words does, such as with a call.
        text = turn.rstrip()
        ends = [control for control in self._controls if text.endswith(control)]
        if not ends:
            raise LabError(
                f"{self._chat.name} ends the answer {turn[:80]!r} with neither {tail.strip()!r} nor a control token, "
                "so it is not known where sampling would stop. Set model.chat_template to another."
            )
        end = max(ends, key=len)
        return text.removesuffix(end), (self._controls[end],)

    def _after(self, before: str, text: str) -> list[int]:
        """The ids of a text that follows a prompt: those that follow the prompt's, unless a token spans the two."""
        # Nothing before a control token has a part in how the text after it is read.
        begin = max((found.start() for found in self._control.finditer(before)), default=0)
        mark = before[begin:]
        known, whole = self._ids(mark), self._ids(mark + text)
        return whole[len(known) :] if whole[: len(known)] == known else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        """The ids of a text, in which the text of a special token is that token."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _as_text(self, before: str, body: str, words: str) -> list[int]:
        """The ids of an answer whose words have the text of a special token."""
        words = words if words in body else words.strip()
        lead, found, more = body.partition(words)
        if not found or not self._special.search(words):
            raise LabError(
                f"The completion {body[:80]!r} has the text of a special token where the chat template writes no plain "
                "words. Take it out of the completion."
            )
        return [*self._after(before, lead), *self._letters(words), *self._ids(more)]

    def _letters(self, words: str) -> list[int]:
        """The ids of words in which the text of a special token is text."""
        ids = [*self.tokenizer(words, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
        if set(ids) & {self.tokenizer.convert_tokens_to_ids(text) for text in self._special.findall(words)}:
            raise LabError(
                f"The completion {words[:80]!r} has the text of a special token, which this tokenizer cannot "
                "read as text. Take it out of the completion."
            )
        return ids

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

    def _end_of_turn(self) -> Ending:
        """What the template writes after the assistant's words."""
        shape = self._chat.shape
        return replace(end_of_turn(self.tokenizer, shape.tail, self._ends), markup=shape.markup)


class _Said(NamedTuple):
    """A completion as it is read.

    Attributes:
        ids: its tokens, with its end where it has one.
        ended: its words had the text of the end.
        special: they have the text of a special token inside.
        header: tokens between the prompt and it that the template's mask leaves out.
    """

    ids: tuple[int, ...]
    ended: bool
    special: bool
    header: tuple[int, ...] = ()


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of some texts, and nothing where there are none."""
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")
