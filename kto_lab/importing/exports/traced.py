"""The prompt and the answer in what a trace holds as input and output, whichever library wrote it.

Known are: plain text; chat messages, as OpenAI and Argilla write them, and as LangChain does (`{"type": "human",
"content"}`, `{"type", "data"}`, serialised objects with `kwargs`, pairs of role and text); mappings that hold one of
these under a usual key; OpenAI's `choices` and LangChain's `generations`; each also as a JSON text. A prompt that is
plain text becomes one user message: what is traced is a chat.
"""

from typing import Any

from kto_lab.feedback.asked import messages_of
from kto_lab.feedback.messages import ROLES, decoded, role_of, text_of
from kto_lab.feedback.paths import cell, steps_of
from kto_lab.feedback.unread import Unread, holds
from kto_lab.feedback.whole import READ, is_message, is_parts
from kto_lab.importing.exports.values import NoThumbError, answer_of, completion_of, prompt_of, shown, turns_of
from kto_lab.importing.thumbs import Completion, Reason

# Looked for in this order.
PROMPT_KEYS = ("messages", "input", "inputs", "question", "query", "prompt", "text")
ANSWER_KEYS = ("output", "outputs", "answer", "response", "completion", "result", "text", "messages")
_DEEPEST = 5
_LANGCHAIN_ROLES = (
    ("Human", "user"),
    ("AI", "assistant"),
    ("System", "system"),
    ("Tool", "tool"),
    ("Function", "tool"),
)


def traced(
    asked: Any, answered: Any, unread: Unread, *, input_key: str | None, output_key: str | None, tools: Any = None
) -> tuple[list[dict[str, str]], Completion]:
    """The prompt and the answer of a trace.

    Where the output has the turns between the two, such as an agent's calls and their results, they are part of the
    prompt of the last answer.

    Args:
        asked: the input.
        answered: the output.
        unread: counts what is not read: the input's other keys, and what messages hold beside what the table keeps.
        input_key: the key of the input that holds the prompt; None to look for one of `PROMPT_KEYS`.
        output_key: the key of the output that holds the answer; None to look for one of `ANSWER_KEYS`.
        tools: those that the conversation had, where the input does not hold them.

    Raises:
        NoThumbError: one of the two is not found.
    """
    prompt = traced_prompt(asked, input_key, unread, tools=tools)
    return _joined(prompt, *_traced_turns(answered, output_key, unread), unread)


def annotated(
    asked: Any, answered: Any, unread: Unread, *, tools: Any = None
) -> tuple[list[dict[str, str]], Completion]:
    """The prompt and the answer in the fields of a task; see `traced`. An answer that is JSON is text, if no message.

    Raises:
        NoThumbError: one of the two is not found.
    """
    prompt = traced_prompt(asked, None, unread, tools=tools)
    found = messages_of(answered)
    if isinstance(found, str):
        return prompt, completion_of(found)
    return _joined(prompt, *_traced_turns(found, None, unread), unread)


def _joined(
    prompt: list[dict[str, str]], between: list[Any], answer: Completion, unread: Unread
) -> tuple[list[dict[str, str]], Completion]:
    """A prompt that also has the turns before an answer."""
    if not between:
        return prompt, answer
    offered = prompt[0].pop("tools", None)
    turns = turns_of(between, unread)
    # All turns since the beginning, or those since the question.
    return prompt_of(turns if prompt[-1] in turns else [*prompt, *turns], tools=offered), answer


def traced_prompt(value: Any, key: str | None, unread: Unread, *, tools: Any = None) -> list[dict[str, str]]:
    """The messages of a trace's input; see `traced`.

    Raises:
        NoThumbError: no prompt is found in it.
    """
    found = decoded(value)
    own = _tools(found)
    if key is not None:
        if not isinstance(found, dict) or (inner := cell(found, key)) is None:
            raise NoThumbError(Reason.NO_PROMPT, f"the input has no key {shown(key)}")
        unread.look(found, (str(steps_of(key)[0]), "tools"))
        found, own = inner, own or _tools(inner)
    messages = _messages(found, _DEEPEST, unread)
    if messages is None:
        raise NoThumbError(Reason.NO_PROMPT, f"the input is {shown(found)}, and no form of a prompt that is known")
    return prompt_of(messages, unread, tools=own or tools)


def traced_answer(value: Any, key: str | None, unread: Unread) -> Completion:
    """The answer in a trace's output; see `traced`.

    Raises:
        NoThumbError: no answer is found in it.
    """
    return _traced_turns(value, key, unread)[1]


def _traced_turns(value: Any, key: str | None, unread: Unread) -> tuple[list[Any], Completion]:
    """The turns before the answer that an output has, and the answer."""
    value = None if value == "null" else value
    found = decoded(value)
    if key is not None:
        if not isinstance(found, dict) or (inner := cell(found, key)) is None:
            raise NoThumbError(Reason.NO_COMPLETION, f"the output has no key {shown(key)}")
        found = inner
    turns, said = _said(found, _DEEPEST)
    if isinstance(said, dict):
        return turns, answer_of(said, unread)
    # An answer may itself be JSON, of no form that is known.
    return [], completion_of(value if said is None and key is None and isinstance(value, str) else said)


def _messages(value: Any, deepest: int, unread: Unread) -> list[Any] | None:
    value = decoded(value)
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if deepest == 0:
        return None
    if isinstance(value, dict):
        if _is_message(value):
            return [_plain(value)]
        key = next((key for key in PROMPT_KEYS if value.get(key)), None)
        if key is None:
            return None
        unread.look(value, (key, "tools"))
        return _messages(value[key], deepest - 1, unread)
    if not isinstance(value, list) or not value:
        return None
    if len(value) == 1 and isinstance(_plain(value[0]), list):
        # LangChain asks in batches: a list of conversations, here of one.
        return _messages(value[0], deepest - 1, unread)
    return [_plain(message) for message in value]


def _tools(value: Any, deepest: int = _DEEPEST) -> Any:
    """The tools beside the messages of an input, or beside what holds them."""
    value = decoded(value)
    if not isinstance(value, dict) or deepest == 0:
        return None
    key = next((key for key in PROMPT_KEYS if value.get(key)), None)
    return value.get("tools") or (None if key is None else _tools(value[key], deepest - 1))


def _said(value: Any, deepest: int) -> tuple[list[Any], Any]:
    """The turns before an answer, and the answer: its content, its message, or None."""
    if isinstance(value, str) or value is None or deepest == 0:
        return [], value if isinstance(value, str) else None
    if isinstance(value, list):
        if is_parts(value) or text_of(value) is not None or any(isinstance(part, str) for part in value):
            return [], value
        turns, said = _said(value[-1], deepest - 1) if value else ([], None)
        all_messages = len(value) > 1 and all(isinstance(one, dict) and _is_message(one) for one in value)
        return [_plain(one) for one in value[:-1]] if all_messages else turns, said
    if not isinstance(value, dict):
        return [], None
    if _is_message(value):
        return [], _plain(value) if role_of(_plain(value)) == "assistant" else None
    for key in ("choices", "generations"):
        if isinstance(value.get(key), list) and value[key]:
            return _said(value[key][0], deepest - 1)
    if isinstance(value.get("message"), dict):
        return _said(value["message"], deepest - 1)
    held = next((value[name] for name in ANSWER_KEYS if value.get(name)), None)
    if held is not None:
        return _said(held, deepest - 1)
    spoken = {key: value[key] for key in READ if key in value}
    return [], {**spoken, "role": "assistant"} if is_message({**spoken, "role": "assistant"}, ROLES) else None


def _is_message(value: dict[str, Any]) -> bool:
    plain = _plain(value)
    return isinstance(plain.get("role"), str) and ("content" in plain or bool(plain.get("tool_calls")))


def _plain(message: Any) -> Any:
    """A message as {role, content}, where it is one of LangChain's; else as it is."""
    if isinstance(message, list) and len(message) == 2 and isinstance(message[0], str):
        return {"role": message[0], "content": message[1]}
    if not isinstance(message, dict):
        return message
    if isinstance(message.get("kwargs"), dict):
        names = message.get("id")
        name = str(names[-1]) if isinstance(names, list) and names else ""
        role = next(
            (role for begins, role in _LANGCHAIN_ROLES if name.startswith(begins)), message["kwargs"].get("type")
        )
        return _of_langchain(role, message["kwargs"])
    if isinstance(message.get("data"), dict) and "type" in message:
        return _of_langchain(message["type"], message["data"])
    if "role" not in message and "type" in message and "content" in message:
        return _of_langchain(message["type"], message)
    return message


def _of_langchain(role: Any, held: dict[str, Any]) -> dict[str, Any]:
    """The message, with what LangChain keeps beside the text; its other keys are no part of what was said."""
    more = held.get("additional_kwargs")
    kept: dict[str, Any] = {}
    for part in (more if isinstance(more, dict) else {}, held):
        kept |= {key: value for key, value in part.items() if key in READ and holds(value)}
    return {**kept, "role": role, "content": held.get("content")}
