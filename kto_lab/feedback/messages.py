"""Chat messages as tools write them: their names for roles, and content in parts."""

import json
from collections.abc import Mapping
from typing import Any

# What tools call the four roles of the table.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
}
# Kinds of content parts that are text of the turn itself; a "thinking" part has a text, too.
_TEXT_PARTS = ("text", "input_text", "output_text")


def decoded(value: Any) -> Any:
    """The JSON object or list that a text spells; every other value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


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
