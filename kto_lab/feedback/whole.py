"""Whole messages: what a chat message holds beside its text, and how the table of examples keeps it.

A message of the table has `role` and `content`, both text, and where it has them

- `tool_calls`: JSON, a list of {"type": "function", "function": {"name", "arguments"}}, with an `id` where it has one,
- `tool_call_id` and `name`: which call a tool's turn answers, and of which tool,
- `reasoning_content`: what was thought before the content was said,
- `tools`: JSON, on the first message: the tools that the conversation had.
"""

import json
from collections.abc import Mapping
from typing import Any

from kto_lab.errors import LabError
from kto_lab.feedback.messages import decoded

MORE = ("tool_calls", "tool_call_id", "name", "reasoning_content", "tools")
# What tools call the reasoning of a message.
_REASONING = ("reasoning_content", "reasoning", "thinking")
# The keys of a raw message that are read.
READ = ("role", "content", "tool_calls", "function_call", "tool_call_id", "name", *_REASONING)
_TEXT = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_THOUGHT = ("thinking", "reasoning")
_MEDIA = ("image", "audio", "video", "file", "document")


def whole(message: Mapping[str, Any], where: str) -> dict[str, str]:
    """A message as the table keeps it.

    Args:
        message: with one of the table's roles, content that is text or parts, and more.
        where: its row's place, for errors.

    Raises:
        LabError: it holds something that is no text, such as an image, or something malformed.
    """
    text, thoughts, calls = _parts(message.get("content"), where)
    thoughts += [message[key] for key in _REASONING if isinstance(message.get(key), str) and message[key].strip()]
    calls += _calls(message, where)
    found = {"role": message["role"], "content": text}
    if calls:
        found["tool_calls"] = _json(calls)
    for key in ("tool_call_id", "name"):
        if message.get(key) is not None:
            found[key] = str(message[key])
    if thoughts:
        found["reasoning_content"] = "\n".join(thoughts)
    if message.get("tools"):
        found["tools"] = tools_of(message["tools"], where)
    return found


def tools_of(value: Any, where: str) -> str:
    """The tools that a conversation had, as the table keeps them.

    Raises:
        LabError: it is no list of tools.
    """
    tools = decoded(value)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) and _named(tool) for tool in tools):
        raise LabError(f"{where}: the tools are {value!r:.80}; they must be a list of objects, each with a name.")
    return _json(tools)


def is_more_than_text(message: Mapping[str, Any]) -> bool:
    """Whether a message of the table holds more than its role and its text."""
    return any(message.get(key) is not None for key in MORE)


def as_text(message: Mapping[str, Any]) -> str:
    """A message of the table as one text, for people and for whoever reads texts: reasoning, content, calls."""
    calls = json.loads(message.get("tool_calls") or "[]")
    parts = [
        f"<think>\n{message['reasoning_content']}\n</think>" if message.get("reasoning_content") else "",
        message.get("content") or "",
        *(f"{call['function']['name']}({_json(call['function']['arguments'])})" for call in calls),
    ]
    return "\n\n".join(part for part in parts if part.strip())


def _parts(content: Any, where: str) -> tuple[str, list[str], list[dict[str, Any]]]:
    """The text of a content, the reasoning in it, and the calls in it."""
    if content is None or isinstance(content, str):
        return content or "", [], []
    texts, thoughts, calls = [], [], []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, Mapping):
            raise LabError(f"{where}: a part of a message is {part!r:.60}; it must be text. Repair or remove the row.")
        elif isinstance(part.get(_TEXT.get(kind, "")), str):
            texts.append(part[_TEXT[kind]])
        elif kind in _THOUGHT:
            thoughts.append(str(part.get("thinking") or part.get("reasoning") or part.get("text") or ""))
        elif kind == "tool_use":
            calls.append(_call({"id": part.get("id"), "name": part.get("name"), "arguments": part.get("input")}, where))
        else:
            medium = next((name for name in _MEDIA if name in str(kind)), None)
            named = (
                f"{'an' if medium in ('image', 'audio') else 'a'} {medium}" if medium else "something that is no text"
            )
            raise LabError(
                f"{where}: a message holds {named} (a part of the type {kind!r}). Only text is trained on: remove the "
                "row, or leave such rows out with bad_rows=drop."
            )
    return "".join(texts), thoughts, calls


def _calls(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    given = decoded(message.get("tool_calls")) or []
    if message.get("function_call"):
        given = [decoded(message["function_call"])]
    if not isinstance(given, list):
        raise LabError(f"{where}: tool_calls is {given!r:.60}; it must be a list of calls. Repair or remove the row.")
    return [_call(call, where) for call in given]


def _call(call: Any, where: str) -> dict[str, Any]:
    """A call in the form of OpenAI, with its arguments as an object."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise LabError(f"{where}: a tool call is {call!r:.80}; it must name a function. Repair or remove the row.")
    arguments = function.get("arguments", function.get("args"))
    named = {"type": "function", "function": {"name": name, "arguments": decoded(arguments) or {}}}
    return named if call.get("id") is None else {**named, "id": str(call["id"])}


def _named(tool: Mapping[str, Any]) -> bool:
    function = tool.get("function", tool)
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _json(value: Any) -> str:
    """Canonical, so that two equal calls are one."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
