"""The prompt and the answer in the cells of a row: texts, chat messages, conversations, lists of turns."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kto_lab.errors import LabError
from kto_lab.feedback.messages import canonical, decoded, role_of, text_of, under_our_names
from kto_lab.feedback.unread import MESSAGE_KEYS, holds, without_unread

LISTS = ("turns", "alternatives", "text")

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Asking:
    """How prompts and answers are put together.

    Attributes:
        chat: whether a text prompt becomes a user message: never ("given"; a system turn then has no place), where the
            row has a system prompt ("system"), or always ("all").
        constant_prompt: the prompt that all answers answer, where no column holds one.
        lists: what a list of texts is; see `layout`.
        node: whose settings these are, for messages.
    """

    chat: Literal["given", "system", "all"]
    constant_prompt: str | None
    lists: Literal["turns", "alternatives", "text"] | None
    node: str

    def prompt_and_answer(self, cells: Mapping[str, Any], answer: Any, where: str) -> tuple[Any, Any]:
        """The prompt and the answer; the answer is None where it is missing from a list of turns.

        Args:
            cells: `prompt`, `system` and `input`, where there are such columns.
            answer: the cell of the answer.
            where: the row's place, for errors.

        Raises:
            LabError: prompt and answer do not fit each other.
        """
        prompt: Any
        if self.constant_prompt is not None:
            prompt, completion = self.constant_prompt, _completion(messages_of(answer), where, self.node)
        elif "prompt" not in cells:
            prompt, completion = _conversation(messages_of(answer), where)
        elif self.lists == "turns" and (questions := texts_of(cells["prompt"])) is not None:
            prompt, completion = turns(questions, answer, where)
        else:
            prompt = messages_of(cells["prompt"], asked=True)
            prompt = [canonical(message) for message in prompt] if isinstance(prompt, list) else prompt
            completion = _completion(messages_of(answer), where, self.node)
        prompt = _with_input(prompt, cells.get("input"), where, self.node)
        return self._with_system(prompt, cells.get("system"), where), completion

    def alternatives(self, answer: Any) -> list[Any]:
        """The answers in a cell: several where it is a list of alternatives, with None for those that are missing."""
        if self.lists == "alternatives" and isinstance(answer, list):
            texts: list[Any] | None = texts_of(answer, missing=True)
            return texts or [answer]
        return [answer]

    def _with_system(self, prompt: Any, system: Any, where: str) -> Any:
        told = isinstance(system, str) and bool(system.strip())
        if system is not None and not isinstance(system, str):
            raise LabError(
                f"{where}: the system prompt is {system!r:.60}, which is not text. Repair or remove the row."
            )
        chat = self.chat == "all" or (told and self.chat == "system")
        if chat and isinstance(prompt, str) and prompt.strip():
            prompt = [{"role": "user", "content": prompt}]
        if not told:
            return prompt
        if not isinstance(prompt, list):
            raise LabError(f"{where}: {needs_chat(self.node)}")
        if prompt and role_of(prompt[0]) == "system":
            raise LabError(
                f"{where}: the prompt begins with a system turn, and {self.node}.columns.system has another one. "
                f"Leave one of them out, such as {self.node}.columns.system=null."
            )
        return [{"role": "system", "content": system}, *prompt]


def needs_chat(node: str) -> str:
    """What to do about a system prompt beside a prompt that is text."""
    return (
        f"the prompt is text, and {node}.columns.system needs chat messages to put its turn before. Set "
        f"{node}.as_chat=true to turn prompts into chat messages."
    )


def messages_of(cell: Any, *, asked: bool = False) -> Any:
    """The chat messages that a cell holds or spells as JSON; every other cell as it is.

    A single message counts as a list of one. An answer may itself be JSON, so its objects count as messages only with
    roles; those of a prompt (`asked`) always.
    """
    value = decoded(cell)
    if isinstance(value, dict):
        one = under_our_names(value)
        return [one] if "content" in one and isinstance(one.get("role"), str) else cell
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return cell
    value = [under_our_names(item) for item in value]
    return value if asked or all("role" in item for item in value) else cell


def texts_of(cell: Any, *, missing: bool = False) -> list[str | None] | None:
    """The texts of a list of texts, also one spelled as JSON, with None for those that are missing.

    None where the cell is not such a list, or where all of its texts are missing and `missing` is not set.
    """
    value = decoded(cell)
    if not isinstance(value, list) or not value or not all(item is None or isinstance(item, str) for item in value):
        return None
    return value if missing or any(item is not None for item in value) else None


def is_conversation(cell: Any) -> bool:
    """Whether a cell holds chat messages or a transcript."""
    value = messages_of(cell)
    if isinstance(value, str):
        return bool(_transcript(value))
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def turns(questions: Sequence[Any], answer: Any, where: str) -> tuple[list[dict[str, str]], str | None]:
    """A conversation from its questions and answers: the last answer is judged, and the turns before it are its prompt.

    Args:
        questions: the turns of the prompt.
        answer: a list of as many answers, or a text where there is a single turn.
        where: the row's place, for errors.

    Returns:
        The messages before the last answer, and the last answer; None where one of the answers is missing.

    Raises:
        LabError: a question is missing, or there are not as many answers as questions.
    """
    answers: Sequence[Any] = texts_of(answer, missing=True) or [answer]
    if len(answers) != len(questions):
        raise LabError(f"{where}: the prompt has {len(questions)} turns, the answer {len(answers)}. Repair the row.")
    messages = []
    missing = False
    for number, (question, text) in enumerate(zip(questions, answers, strict=True), start=1):
        if not isinstance(question, str) or not question.strip():
            raise LabError(f"{where}: turn {number} of the prompt is missing. Repair or remove the row.")
        missing = missing or text is None or (isinstance(text, str) and not text.strip())
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": text or ""}]
    return messages[:-1], None if missing else answers[-1]


def _with_input(prompt: Any, given: Any, where: str, node: str) -> Any:
    """An instruction, a blank line and its input; just the instruction where the input is empty."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return prompt
    if isinstance(prompt, str) and isinstance(given, str):
        return f"{prompt}\n\n{given}"
    raise LabError(
        f"{where}: {node}.columns.input is appended to a text prompt, and one of the two is not text. Write the input "
        "into the messages, or repair the row."
    )


def _completion(value: Any, where: str, node: str) -> Any:
    """The text of a completion: text, parts of text, or a list of one assistant message."""
    if not isinstance(value, list):
        return value
    if len(value) == 1 and role_of(value[0]) == "assistant":
        return said(value[0])
    if (text := text_of(value)) is not None:
        return text
    raise LabError(
        f"{where}: the completion is a list, but not of one assistant message. If it holds the whole conversation, set "
        f"{node}.columns.prompt=null."
    )


def _conversation(value: Any, where: str) -> tuple[Any, Any]:
    """The prompt and the last answer of chat messages or of a transcript."""
    messages = _transcript(value) if isinstance(value, str) else value
    if not isinstance(messages, list) or not messages or role_of(messages[-1]) != "assistant":
        raise LabError(
            f"{where}: without a prompt column, a completion must be a whole conversation (chat messages, or a "
            "transcript of 'Human:' and 'Assistant:' turns) that ends with the assistant's turn; this one is not."
        )
    *prompt, last = messages
    return [canonical(message) for message in prompt], said(last)


def said(message: Mapping[str, Any]) -> Any:
    """What a message says: its text, or the message where it holds more, or no text."""
    known = canonical(message)
    content = known.get("content")
    more = any(key not in MESSAGE_KEYS and holds(value) for key, value in known.items())
    return {**known, "role": role_of(message)} if more or not isinstance(content, str | None) else content


def _transcript(text: str) -> list[dict[str, str]]:
    """The messages of a transcript; an empty list where the text does not start with a turn."""
    before, *parts = _TURN.split("\n\n" + text.lstrip())
    if before.strip():
        return []
    return [{"role": _ROLE[who], "content": words.strip()} for who, words in zip(parts[::2], parts[1::2], strict=True)]


def kept_of(messages: Any, keys: Collection[str], where: str) -> Any:
    """Chat messages with only these keys; anything but a list of messages unchanged.

    Raises:
        LabError: a turn has nothing beside what is left out, such as a tool call.
    """
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        return messages
    kept = [{key: message[key] for key in message if key in keys} for message in messages]
    for number, (message, left) in enumerate(zip(messages, kept, strict=True), start=1):
        if without_unread(message) and not without_unread(left):
            raise LabError(f"{where}: turn {number} has no text, only what is ignored. Repair or remove the row.")
    return kept
