"""Whole messages: what a chat message holds beside its text, and how the table of examples keeps it.

A message of the table has `role` and `content`, both text, and where it has them

- `tool_calls`: JSON, a list of {"type": "function", "function": {"name", "arguments"}}, with an `id` where it has one,
- `tool_call_id` and `name`: which call a tool's turn answers, and of which tool,
- `reasoning_content`: what was thought before the content was said,
- `tools`: JSON, on the first message: the tools that the conversation had.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
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
_CALL_PART, _RESULT_PART = "tool_use", "tool_result"
_MEDIA = ("image", "audio", "video", "file", "document")
_OF_PARTS = (*_TEXT, *_THOUGHT, _CALL_PART)


class NotTextError(LabError):
    """A message holds an image, a sound, or something else that is not text."""


def whole(message: Mapping[str, Any], where: str) -> dict[str, str]:
    """A message as the table keeps it.

    Args:
        message: with one of the table's roles, content that is text or parts, and more.
        where: its row's place, for errors.

    Raises:
        NotTextError: it holds something that is not text, such as an image.
        LabError: it is malformed.
    """
    text, thoughts, calls = _parts(message.get("content"), where)
    thoughts += [message[key] for key in _REASONING if isinstance(message.get(key), str) and message[key].strip()]
    # LangChain keeps Anthropic's calls twice: as parts of the content and beside it.
    beside = _calls(message, where)
    calls = [call for call in calls if call not in beside] + beside
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


def with_results_as_turns(messages: Iterable[Any]) -> list[Any]:
    """Raw messages, with the results of tools that Anthropic has in a user's message as turns of their own."""
    found: list[Any] = []
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        parts = content if isinstance(content, list) else []
        results = [part for part in parts if isinstance(part, Mapping) and part.get("type") == _RESULT_PART]
        if not results:
            found.append(message)
            continue
        for part in results:
            result = part.get("content")
            turn = {"role": "tool", "content": "" if result is None else result}
            found.append({**turn, "tool_call_id": part.get("tool_use_id")})
        if rest := [part for part in parts if part not in results]:
            found.append({**message, "content": rest})
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


def with_tools(messages: list[dict[str, Any]], tools: Any, where: str) -> list[dict[str, Any]]:
    """Messages of a conversation, of which the first keeps the tools that it had.

    Raises:
        LabError: see `tools_of`.
    """
    return [{**messages[0], "tools": tools_of(tools, where)}, *messages[1:]]


def is_message(message: Any, roles: Collection[str]) -> bool:
    """Whether something is a message with one of these roles, and with content or with calls in its place."""
    if not isinstance(message, Mapping) or message.get("role") not in roles:
        return False
    calls = message["role"] == "assistant" and (message.get("tool_calls") or message.get("function_call"))
    content = message.get("content")
    return isinstance(content, str | list) or (content is None and bool(calls))


def is_parts(content: Any) -> bool:
    """Whether something is a list of the parts of one message: text, reasoning, calls, images and the like."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(part, Mapping) and "role" not in part and _is_part(part.get("type")) for part in content)
    )


def without_ids(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of the table without the ids of its calls, which say nothing and differ each time."""
    if not message.get("tool_calls"):
        return dict(message)
    calls = [{key: value for key, value in call.items() if key != "id"} for call in json.loads(message["tool_calls"])]
    return {**message, "tool_calls": _json(calls)}


def each_text(message: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A message of the table with each of its texts changed: also those inside the calls and the tools.

    Args:
        message: of the table.
        change: from a text to what takes its place. Numbers of calls are given as texts, and stay numbers where they
            are not changed.
    """

    def inside(value: Any) -> Any:
        if isinstance(value, dict):
            return {change(key): inside(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [inside(inner) for inner in value]
        if isinstance(value, str):
            return change(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        text = str(value)
        changed = change(text)
        return value if changed == text else changed

    changed = dict(message)
    for key in ("content", "reasoning_content", "name"):
        if message.get(key):
            changed[key] = change(message[key])
    if message.get("tools"):
        changed["tools"] = _json(inside(json.loads(message["tools"])))
    if message.get("tool_calls"):
        calls = json.loads(message["tool_calls"])
        for call in calls:
            call["function"]["arguments"] = inside(call["function"]["arguments"])
        changed["tool_calls"] = _json(calls)
    return changed


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
        elif kind == _CALL_PART:
            calls.append(_call({"id": part.get("id"), "name": part.get("name"), "arguments": part.get("input")}, where))
        else:
            medium = next((name for name in _MEDIA if name in str(kind)), None)
            named = (
                f"{'an' if medium in ('image', 'audio') else 'a'} {medium}" if medium else "something that is no text"
            )
            raise NotTextError(
                f"{where}: a message holds {named} (a part of the type {kind!r}). Only text is trained on: remove the "
                "row, or leave such rows out with bad_rows=drop."
            )
    return "".join(texts), thoughts, calls


def _is_part(kind: Any) -> bool:
    return isinstance(kind, str) and (kind in _OF_PARTS or any(medium in kind for medium in _MEDIA))


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
