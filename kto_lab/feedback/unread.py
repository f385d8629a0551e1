"""What a source holds and nothing reads: reported once, and an error where it changes a prompt or an answer."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kto_lab.errors import LabError

# Columns, and keys of messages, without which a prompt or an answer would be a different one; letters only, lower case.
_SYSTEM = ("system", "systemprompt", "systemmessage", "systeminstruction", "sysprompt", "developer", "instructions")
_INPUT = ("input", "inputs")
_CONTEXT = ("context", "contexts", "documents", "passages", "history", "chathistory", "conversationhistory", "fewshot")
_TOOLS = ("tools", "tool", "toolcalls", "toolcall", "toolcallid", "functions", "functioncall", "toolchoice")
_REASONING = ("reasoning", "reasoningcontent", "thinking", "thought", "thoughts")
_MEDIA = ("image", "images", "audio", "video", "videos", "files", "attachments")
CHANGING = frozenset((*_SYSTEM, *_INPUT, *_CONTEXT, *_TOOLS, *_REASONING, *_MEDIA))
# Chat templates may write out a message's `name`.
CHANGING_MESSAGES = CHANGING | {"name"}
MESSAGE_KEYS = ("role", "content")
# The fields to map them to, where a reader has the field.
_FIELDS = {**dict.fromkeys(_SYSTEM, "system"), **dict.fromkeys(_INPUT, "input"), "tools": "tools"}

_LETTERS = re.compile("[^a-z0-9]")
_SHOWN = 40
_MOST = 30


@dataclass
class _Found:
    """One column: an example of its values, and how many rows have one."""

    example: Any
    times: int = 0


@dataclass
class Unread:
    """The columns of a source that nothing reads, counted over its rows.

    Attributes:
        node: the node of the configuration, for messages.
        ignore: names to leave out without a notice.
        fields: fields that `node.columns` can map.
        message_keys: the keys of chat messages that are read.
        columns: what was found in each column.
        keys: what was found under each key of chat messages.
    """

    node: str
    ignore: frozenset[str]
    fields: frozenset[str] = frozenset()
    message_keys: tuple[str, ...] = MESSAGE_KEYS
    columns: dict[str, _Found] = field(default_factory=dict)
    keys: dict[str, _Found] = field(default_factory=dict)

    def look(self, row: Mapping[str, Any], read: Collection[str]) -> None:
        """Count the columns of a row that nothing reads and that hold something."""
        _count(self.columns, row, read)

    def look_at_messages(self, value: Any) -> None:
        """Count what chat messages hold beside role and content; other values than lists of messages hold nothing."""
        for message in value if isinstance(value, list) else ():
            if isinstance(message, Mapping):
                _count(self.keys, message, self.message_keys)

    def sentence(self, source: str) -> str | None:
        """A sentence on what is not read; None where everything is read or ignored.

        Raises:
            LabError: part of it changes what was asked or answered.
        """
        columns = {name: one for name, one in self.columns.items() if name not in self.ignore}
        keys = {name: one for name, one in self.keys.items() if name not in self.ignore}
        wrong = [
            *(self._wrong(name, one) for name, one in columns.items() if _letters(name) in CHANGING),
            *(self._wrong_key(name, one) for name, one in keys.items() if _letters(name) in CHANGING_MESSAGES),
        ]
        if wrong:
            raise LabError(f"{source}: {' '.join(wrong)}")
        told = [f"{name!r} ({_described(one, 'rows')})" for name, one in columns.items()]
        told += [f"{name!r} of messages ({_described(one, 'messages')})" for name, one in keys.items()]
        if not told:
            return None
        more = f" and {len(told) - _MOST} others" if len(told) > _MOST else ""
        names = _override([*columns, *keys][:_MOST])
        mapped = f"Map them with {self.node}.columns, or leave" if self.fields else "Leave"
        shown = f"{', '.join(told[:_MOST])}{more}"
        return f"{source}: not read: {shown}. {mapped} them out by name: {self.node}.ignore={names}"

    def _wrong(self, name: str, one: _Found) -> str:
        field_ = _FIELDS.get(_letters(name))
        mend = f"Map it with {self.node}.columns.{field_}={name}, or leave" if field_ in self.fields else "Leave"
        return (
            f"The column {name!r} ({_described(one, 'rows')}) is part of what was asked or answered, and nothing reads "
            f"it. {mend} it out by name with {self.node}.ignore={_override([name])}."
        )

    def _wrong_key(self, name: str, one: _Found) -> str:
        return (
            f"Messages hold {name!r} ({_described(one, 'messages')}), and of messages only "
            f"{', '.join(self.message_keys)} are read. Write it into the content, or leave it out by name with "
            f"{self.node}.ignore={_override([name])}."
        )


def ignored(names: Iterable[str] | None, columns: Iterable[str], *, node: str) -> frozenset[str]:
    """The names that a source ignores.

    Args:
        names: the value of `node.ignore`.
        columns: the columns that are read.
        node: the node of the configuration, for the error.

    Raises:
        LabError: an ignored column is also read.
    """
    if isinstance(names, str):
        raise LabError(f"{node}.ignore is {names!r}; it must be a list of names, such as [{names}].")
    found = frozenset(map(str, names or ()))
    if both := sorted(found & set(columns)):
        raise LabError(
            f"{node}.ignore names the column {both[0]!r}, which {node}.columns reads. Remove it from one of the two."
        )
    return found


def without_unread(message: Mapping[str, Any]) -> bool:
    """Whether a message has nothing but what the table cannot hold."""
    extra = any(_letters(key) in CHANGING and holds(value) for key, value in message.items() if key not in MESSAGE_KEYS)
    return extra and not holds(message.get("content"))


def _count(found: dict[str, _Found], row: Mapping[str, Any], read: Collection[str]) -> None:
    for name, value in row.items():
        if name not in read and holds(value):
            found.setdefault(name, _Found(value)).times += 1


def holds(value: Any) -> bool:
    """Whether a value is there and not empty."""
    return value is not None and value != [] and value != {} and not (isinstance(value, str) and not value.strip())


def _letters(name: str) -> str:
    return _LETTERS.sub("", str(name).rpartition(".")[2].lower())


def _described(one: _Found, what: str) -> str:
    value = one.example
    kind = {bool: "true or false", int: "numbers", float: "numbers", str: "text", list: "lists", dict: "objects"}
    text = value if isinstance(value, str) else _json(value)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"{kind.get(type(value), type(value).__name__)} such as {shown!r}, {one.times} {what}"


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return type(value).__name__


def _override(names: list[str]) -> str:
    """Names as a list on the command line."""
    return f"[{','.join(names)}]"
