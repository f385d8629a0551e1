"""Chat messages as tools write them: their names for keys and roles, and content in parts."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

# What tools call the four roles of the table.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
# Under what tools keep who speaks, and what is said, where it is not under `role` and `content`.
_SPEAKERS = ("from", "author")
_SAID = ("value", "text")
# Who speaks where ShareGPT has the assistant call a function.
_CALL = "function_call"
# Kinds of content parts that are text of the turn itself; a "thinking" part has a text, too.
_TEXT_PARTS = ("text", "input_text", "output_text")
_PRINTED = re.compile(r"\s*\[?\s*\{\s*'")


def decoded(value: Any) -> Any:
    """The object or list that a text spells, as JSON or as Python prints it; every other value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    # What pandas writes into a CSV cell.
    if not _PRINTED.match(value):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def under_our_names(message: Any) -> Any:
    """A message with its speaker under `role` and its text under `content`; what is no such message unchanged."""
    if not isinstance(message, Mapping) or "role" in message:
        return message
    speaker = next((key for key in _SPEAKERS if key in message), None)
    said = next((key for key in ("content", *_SAID) if key in message), None)
    if speaker is None or said is None:
        return message
    if message[speaker] == _CALL:
        return {"role": "assistant", "content": None, "function_call": message[said]}
    role = message[speaker].get("role") if isinstance(message[speaker], Mapping) else message[speaker]
    if not isinstance(role, str) or role.lower() not in ROLES:
        return message
    rest = {key: value for key, value in message.items() if key not in (speaker, said)}
    return {"role": role, "content": message[said], **rest}


def role_of(message: Any) -> str | None:
    """The role of a message by the table's name; None for other roles, and for what is not a message."""
    named = message.get("role", message.get("type")) if isinstance(message, Mapping) else None
    return ROLES.get(named.lower()) if isinstance(named, str) else None


def text_of(content: Any) -> str | None:
    """The text of a message's content: text, or a list of parts that are all text; None for all else.

    Text parts are joined as they are, which is what chat templates do. A list of several plain texts is None: it may as
    well be turns, or alternatives.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or (len(content) > 1 and all(isinstance(part, str) for part in content)):
        return None
    texts = [part if isinstance(part, str) else _text_part(part) for part in content]
    kept = [text for text in texts if text is not None]
    return "".join(kept) if kept and len(kept) == len(texts) else None


def canonical(message: Any) -> Any:
    """A message with the table's name for its role and its content as text; unchanged where it has neither."""
    if not isinstance(message, Mapping):
        return message
    role, text = role_of(message), text_of(message.get("content"))
    return {**message, "role": role, "content": text} if role is not None and text is not None else message


def _text_part(part: Any) -> str | None:
    if not isinstance(part, dict) or part.get("type", "text") not in _TEXT_PARTS:
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None
