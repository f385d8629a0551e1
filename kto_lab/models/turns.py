"""What a chat template makes of a conversation: the text of a prompt, and of the assistant's turn after it.

The prompt is what sampling sees: the conversation with the generation prompt. The turn is what the template writes for
the answer in the whole conversation:

- Where the whole conversation begins with the prompt, the turn is the rest of it. It may begin with what the template
  puts before the words (a blank, an empty thinking block, a channel): the policy has to say that, too.
- Where the generation prompt ends with something that the whole conversation lacks (`gap`), the turn begins where the
  two part, and follows the whole generation prompt. A gap may be white space, an empty thinking block, or the beginning
  of a thinking block: the turn then first ends that block, after the answer's reasoning.
- Where the template writes earlier turns otherwise once the answer is there (it leaves out earlier reasoning), the
  prompt stays what sampling sees, and the turn is the end of the whole conversation: as much of it as the answer has
  after a single question, or else what the template's own mask (`{% generation %}`) says that the assistant said.

In every other case it is not known what the policy would have to say after the prompt, and the template is refused.

Where the template masks what the assistant says (`{% generation %}`), the turn counts from the beginning of the mask to
its end: what the mask leaves out before that is context that is not trained, and an end that it leaves out is not
trained either; a gap is. What the generation prompt has already said never counts, even where the mask begins there.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from kto_lab.errors import LabError
from kto_lab.models.reasoning import Markup
from kto_lab.models.template_limit import within_limit

# transformers takes seconds to import, and a mistyped key should show before.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# As the table of examples has it: texts, of which `tool_calls` and `tools` are JSON.
Message: TypeAlias = Mapping[str, str | None]

PROBE = "completion"
_THOUGHT = "pondering"
_QUESTION: list[Message] = [{"role": "user", "content": "prompt"}]
_MASKED = re.compile(r"\{%-?\s*generation\b")
_OPEN = re.compile(r"\s*<(\w+)>\s*")
_EMPTY = re.compile(r"\s*(<(\w+)>\s*</\2>)?\s*")


class RefusedByTemplateError(LabError):
    """A conversation that the chat template cannot write."""


@dataclass(frozen=True)
class Shape:
    """How a template writes the assistant's turn, as an answer to a single question shows it.

    Attributes:
        gap: the end of the generation prompt that the whole conversation lacks.
        markup: what the policy has to say after the prompt before the words of its answer.
        tail: what the template writes after them.
    """

    gap: str
    markup: Markup = field(default_factory=Markup)
    tail: str = ""

    @property
    def opened(self) -> str | None:
        """The name of the block that the gap begins and does not end, such as "think"."""
        found = _OPEN.fullmatch(self.gap)
        return found[1] if found else None


class Turn(NamedTuple):
    """What follows the prompt in the conversation that ends with an answer.

    Attributes:
        text: to the end of the conversation.
        begin: the character at which what counts begins: 0, unless the template's mask leaves out what is before it.
        end: the one at which that ends.
    """

    text: str
    begin: int
    end: int

    def ends_after(self, words: int) -> bool:
        """Whether the end, which the template writes after so many characters or leaves to the sequence, counts."""
        return self.end > words or self.end == len(self.text)


def spoken(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Messages of the table of examples as a chat template takes them, and the tools that the conversation has."""
    tools = next((message["tools"] for message in messages if message.get("tools")), None)
    return [_spoken(message) for message in messages], None if tools is None else json.loads(tools)


def _spoken(message: Message) -> dict[str, Any]:
    own: dict[str, Any] = {key: value for key, value in message.items() if value is not None and key != "tools"}
    if "tool_calls" in own:
        own["tool_calls"] = json.loads(own["tool_calls"])
    if "reasoning_content" in own:
        # The other name that templates know it by.
        own["thinking"] = own["reasoning_content"]
    return own


class Conversations:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", control: str = "") -> None:
        """Take a tokenizer.

        Args:
            tokenizer: the policy's.
            control: with which its template ends every generation prompt, beside what the template had.
        """
        self._tokenizer = tokenizer
        self._control = control
        # The prompt that was rendered last: its answers come one after another.
        self._last: tuple[Sequence[Message], str] = ([], "")

    @property
    def name(self) -> str:
        """The template as messages call it."""
        return f"The chat template of {self._tokenizer.name_or_path or 'this model'}"

    def prompt(self, messages: Sequence[Message]) -> str:
        """The conversation with the generation prompt.

        Raises:
            RefusedByTemplateError: the template does not take it, or does not write the tools that it has.
        """
        text = self._asked(messages)
        tools = spoken(messages)[1] or []
        if unwritten := [name for name in map(_name_of, tools) if name not in text]:
            raise RefusedByTemplateError(
                f"{self.name} does not write the tools of a conversation ({unwritten[0]}). Set model.chat_template to "
                "one that does, or leave them out with feedback.ignore=[tools]."
            )
        return text

    def turn(self, messages: Sequence[Message], answer: Message) -> Turn:
        """What the policy says after the prompt: to the end of the conversation that ends with the answer.

        Raises:
            RefusedByTemplateError: the template does not take it, or leaves out a part of the answer, or its mask does
                so with all of it.
            LabError: it is not known what follows the prompt.
        """
        text = self._turn(messages, answer, self.shape)
        if text is None:
            text = self._turn_after_change(messages, answer)
        if text is None:
            raise self._no_reading()
        self._check_said(text, answer)
        return self._counted([*messages, answer], text)

    def notes(self) -> tuple[str, ...]:
        """What the template does with every answer, in sentences; none where it writes the words and their end."""
        shape, found = self.shape, []
        if shape.gap:
            found.append(
                f"the generation prompt ends with {shape.gap!r}, which the template leaves out of a conversation that "
                "has its answer: the answer is trained as it is sampled, after it"
            )
        if shape.markup.lead:
            found.append(f"an answer without reasoning begins with {shape.markup.lead!r}, as the template has it")
        turn = self.turn(_QUESTION, {"role": "assistant", "content": PROBE})
        if turn.begin:
            before = turn.text[: turn.begin]
            found.append(f"the template's mask leaves out {before!r} before an answer: it is read, and not trained")
        if not turn.ends_after(len(turn.text) - len(shape.tail)):
            found.append(f"the template's mask leaves out the end of an answer, {shape.tail!r}: it is not trained")
        return tuple(found)

    @cached_property
    def shape(self) -> Shape:
        """How the template writes the assistant's turn.

        Raises:
            LabError: it is not known what follows the prompt.
        """
        plain = self._plain(_QUESTION)
        answer = {"role": "assistant", "content": PROBE}
        whole = self._render([*_QUESTION, answer], generate=False)
        gap = ""
        if not whole.startswith(plain):
            gap = plain[_common(plain, whole) :]
            if not (_OPEN.fullmatch(gap) or _EMPTY.fullmatch(gap)):
                raise self._no_reading()
        text = self._turn(_QUESTION, answer, Shape(gap))
        if text is None or PROBE not in text:
            raise self._no_reading()
        lead, _, tail = text.partition(PROBE)
        return Shape(gap, self._markup(gap, lead), tail)

    def _markup(self, gap: str, lead: str) -> Markup:
        """What the template writes before the words of an answer without reasoning (`lead`), and of one with it."""
        answer = {"role": "assistant", "content": PROBE, "reasoning_content": _THOUGHT}
        try:
            text = self._turn(_QUESTION, answer, Shape(gap)) or ""
        except RefusedByTemplateError:
            return Markup(lead)
        opens, thought, rest = text.partition(_THOUGHT)
        closes, words, _ = rest.partition(PROBE)
        return Markup(lead, opens.strip(), closes.strip()) if thought and words else Markup(lead)

    def _turn(self, messages: Sequence[Message], answer: Message, shape: Shape) -> str | None:
        """What follows the prompt; None where the whole conversation does not say."""
        plain, whole = self._plain(messages), self._render([*messages, answer], generate=False)
        if whole.startswith(plain):
            return whole[len(plain) :]
        base = plain.removesuffix(shape.gap)
        if len(base) < len(plain) and whole.startswith(base):
            return self._after_gap(whole[len(base) :], answer, shape)
        return None

    def _turn_after_change(self, messages: Sequence[Message], answer: Message) -> str | None:
        """What follows the prompt where the answer changes how earlier turns are written; None where not known."""
        whole, gap = self._render([*messages, answer], generate=False), self.shape.gap
        alone = self._turn(_QUESTION, answer, self.shape)
        if alone is not None and whole.endswith(alone):
            return alone
        spans = self._masked([*messages, answer])
        if not spans:
            return None
        begin = spans[-1][0]
        # The mask may begin with what the generation prompt has, too.
        said, before = whole[begin:], self._plain(messages).removesuffix(gap)
        shared = next(size for size in range(len(said), -1, -1) if before.endswith(said[:size]))
        mark = before[_common(before, self._render(messages, generate=False)) : len(before) - shared]
        if not whole[:begin].endswith(mark):
            return None
        return self._after_gap(said[shared:], answer, self.shape) if gap else said[shared:]

    def _after_gap(self, turn: str, answer: Message, shape: Shape) -> str:
        """The turn after the gap: what the gap begins is ended first."""
        name = shape.opened
        if name is None:
            return turn
        end, words = f"</{name}>", answer.get("content") or ""
        if end in words:
            # As it was sampled after the gap; the template leaves out what is before the end of the block.
            return words.removeprefix(f"<{name}>").lstrip("\n") + shape.tail
        reasoning = (answer.get("reasoning_content") or "").strip("\n")
        return f"{reasoning}\n{end}\n\n{turn}"

    def _plain(self, messages: Sequence[Message]) -> str:
        return self._asked(messages).removesuffix(self._control)

    def _asked(self, messages: Sequence[Message]) -> str:
        if self._last[0] != messages:
            self._last = (list(messages), self._render(messages, generate=True))
        return self._last[1]

    def _render(self, messages: Sequence[Message], *, generate: bool) -> str:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise LabError(
                f"The tokenizer of {self._tokenizer.name_or_path or 'this model'} has no chat template, and the "
                "prompts are chat messages. Use an instruction-tuned model, set model.chat_template (such as chatml or "
                "plain), or use feedback with plain-text prompts."
            )
        own, tools = spoken(messages)
        try:
            try:
                text = self._written(own, tools, generate=generate)
            except TypeError:
                # Some templates join the arguments of a call as text (DeepSeek), others ask for an object.
                text = self._written(_with_texts(own), tools, generate=generate)
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise RefusedByTemplateError(
                f"{self.name} does not take this conversation: {error}. Repair or remove the row, set "
                "model.chat_template to a template that takes it, or leave such rows out of a run with "
                "lengths.refused_by_template=drop."
            ) from error
        assert isinstance(text, str)
        return text

    def _written(self, messages: list[dict[str, Any]], tools: list[Any] | None, *, generate: bool) -> Any:
        with within_limit(self._tokenizer):
            return self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=generate
            )

    def _counted(self, messages: Sequence[Message], text: str) -> Turn:
        """The last turn of a conversation, of which the template's mask says what counts."""
        spans = self._masked(messages)
        if spans is None:
            return Turn(text, 0, len(text))
        # The turn is the end of the conversation.
        shift = len(text) - len(self._render(messages, generate=False))
        own = [(begin + shift, end + shift) for begin, end in spans if end + shift > 0]
        if not own:
            raise RefusedByTemplateError(
                f"{self.name} masks what the assistant says ({{% generation %}}), and the mask leaves out this answer. "
                "Set model.chat_template to one that has it, or leave such rows out with "
                "lengths.refused_by_template=drop."
            )
        # A block that the generation prompt begins is the policy's to end, and no conversation has that end.
        begin = 0 if self.shape.opened else max(0, own[0][0])
        return Turn(text, begin, own[-1][1])

    def _masked(self, messages: Sequence[Message]) -> list[tuple[int, int]] | None:
        """From which character to which the template's mask has what the assistant says; None where it has no mask."""
        from transformers.utils.chat_template_utils import render_jinja_template

        own, tools = spoken(messages)
        template = self._tokenizer.get_chat_template(tools=tools)
        if not _MASKED.search(template):
            return None
        marks: dict[str, Any] = dict(self._tokenizer.special_tokens_map)
        with within_limit(self._tokenizer):
            rendered: Any = render_jinja_template(
                conversations=[own], tools=tools, chat_template=template, return_assistant_tokens_mask=True, **marks
            )
        _, spans = rendered
        return [(int(begin), int(end)) for begin, end in spans[0]]

    def _check_said(self, text: str, answer: Message) -> None:
        """Refuse an answer of which the template leaves out a call or the reasoning."""
        calls = json.loads(answer.get("tool_calls") or "[]")
        if unwritten := [name for name in map(_name_of, calls) if name not in text]:
            raise RefusedByTemplateError(
                f"{self.name} does not write tool calls ({unwritten[0]}). Set model.chat_template to one that does, or "
                "leave such rows out with lengths.refused_by_template=drop."
            )
        reasoning = (answer.get("reasoning_content") or "").strip()
        if reasoning and reasoning not in text:
            raise RefusedByTemplateError(
                f"{self.name} does not write the reasoning of an answer. Set model.chat_template to one that does, or "
                "leave it out with feedback.ignore=[reasoning_content]."
            )

    def _no_reading(self) -> LabError:
        return LabError(
            f"{self.name} does not put the assistant's words right after the generation prompt, so what is trained "
            "would differ from what is sampled. Set model.chat_template to a template whose rendering of a "
            "conversation starts with its rendering of the prompt, or model.template_arguments (such as "
            "'{enable_thinking: false}') so that it does."
        )


def _common(one: str, other: str) -> int:
    """Characters with which both begin."""
    differ = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def _with_texts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose calls have their arguments as JSON."""

    def told(call: dict[str, Any]) -> dict[str, Any]:
        function = call["function"]
        return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}

    return [
        {**message, "tool_calls": [told(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _name_of(tool: Mapping[str, Any]) -> str:
    """The name of the function that a tool is, or that is called."""
    return str((tool.get("function") or tool).get("name", ""))
