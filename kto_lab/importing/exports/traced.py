"""The prompt and the answer in what a trace holds as input and output, whichever library wrote it.

Known are: plain text; chat messages, as OpenAI and Argilla write them, and as LangChain does (`{"type": "human",
"content"}`, `{"type", "data"}`, serialised objects with `kwargs`, pairs of role and text); mappings that hold one of
these under a usual key; OpenAI's `choices` and LangChain's `generations`; each also as a JSON text. A prompt that is
plain text becomes one user message: what is traced is a chat.
"""

from typing import Any

from kto_lab.feedback.messages import decoded, text_of
from kto_lab.feedback.paths import cell, steps_of
from kto_lab.feedback.unread import Unread
from kto_lab.importing.exports.values import NoThumbError, completion_of, prompt_of, shown
from kto_lab.importing.thumbs import Reason

# Looked for in this order.
PROMPT_KEYS = ("messages", "input", "inputs", "question", "query", "prompt", "text")
ANSWER_KEYS = ("output", "outputs", "answer", "response", "completion", "result", "text", "messages")
_DEEPEST = 5
_OF_TOOLS = ("tool_calls", "function_call", "tool_call_id", "reasoning_content")
_LANGCHAIN_ROLES = (
    ("Human", "user"),
    ("AI", "assistant"),
    ("System", "system"),
    ("Tool", "tool"),
    ("Function", "tool"),
)


def traced_prompt(value: Any, key: str | None, unread: Unread) -> list[dict[str, str]]:
    """The messages of a trace's input.

    Args:
        value: the input.
        key: the key that holds the prompt; None to look for one of `PROMPT_KEYS`.
        unread: counts the input's other keys, and what messages hold beside role and content.

    Raises:
        NoThumbError: no prompt is found in it.
    """
    found = decoded(value)
    if key is not None:
        if not isinstance(found, dict) or (inner := cell(found, key)) is None:
            raise NoThumbError(Reason.NO_PROMPT, f"the input has no key {shown(key)}")
        unread.look(found, (str(steps_of(key)[0]),))
        found = inner
    messages = _messages(found, _DEEPEST, unread)
    if messages is None:
        raise NoThumbError(Reason.NO_PROMPT, f"the input is {shown(found)}, and no form of a prompt that is known")
    return prompt_of(messages, unread)


def traced_answer(value: Any, key: str | None, unread: Unread) -> str:
    """The text of a trace's output.

    Args:
        value: the output.
        key: the key that holds the answer; None to look for one of `ANSWER_KEYS`.
        unread: counts what an answering message holds beside role and content.

    Raises:
        NoThumbError: no answer is found in it.
    """
    value = None if value == "null" else value
    found = decoded(value)
    if key is not None:
        if not isinstance(found, dict) or (inner := cell(found, key)) is None:
            raise NoThumbError(Reason.NO_COMPLETION, f"the output has no key {shown(key)}")
        found = inner
    content = _content(found, _DEEPEST, unread)
    # An answer may itself be JSON, of no form that is known.
    return completion_of(value if content is None and key is None and isinstance(value, str) else content)


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
        unread.look(value, (key,))
        return _messages(value[key], deepest - 1, unread)
    if not isinstance(value, list) or not value:
        return None
    if len(value) == 1 and isinstance(_plain(value[0]), list):
        # LangChain asks in batches: a list of conversations, here of one.
        return _messages(value[0], deepest - 1, unread)
    return [_plain(message) for message in value]


def _content(value: Any, deepest: int, unread: Unread) -> Any:
    """The content of an answer, or None."""
    if isinstance(value, str) or value is None or deepest == 0:
        return value if isinstance(value, str) else None
    if isinstance(value, list):
        if text_of(value) is not None or any(isinstance(part, str) for part in value):
            return value
        return _content(value[-1], deepest - 1, unread) if value else None
    if not isinstance(value, dict):
        return None
    if _is_message(value):
        unread.look_at_messages([_plain(value)])
        return _plain(value).get("content") if _is_assistants(value) else None
    for key in ("choices", "generations"):
        if isinstance(value.get(key), list) and value[key]:
            return _content(value[key][0], deepest - 1, unread)
    if isinstance(value.get("message"), dict):
        return _content(value["message"], deepest - 1, unread)
    held = next((value[name] for name in ANSWER_KEYS if value.get(name)), None)
    return value.get("content") if held is None else _content(held, deepest - 1, unread)


def _is_message(value: dict[str, Any]) -> bool:
    return isinstance(_plain(value).get("role"), str) and "content" in _plain(value)


def _is_assistants(value: dict[str, Any]) -> bool:
    return str(_plain(value)["role"]).lower() in ("assistant", "ai")


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
    """The message, with what LangChain keeps of tools beside the text; its other keys are no part of what was said."""
    more = held.get("additional_kwargs")
    kept = {
        name: value for name, value in {**(more if isinstance(more, dict) else {}), **held}.items() if name in _OF_TOOLS
    }
    return {"role": role, "content": held.get("content"), **kept}
