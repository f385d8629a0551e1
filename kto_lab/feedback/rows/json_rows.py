"""Rows of JSON: a list of objects, an object per line, or objects over several lines.

A list is cut into its elements by their brackets before anything is parsed, so that one broken element costs one row
and not the rest of the file, as it would with a streaming parser. No more of a file is in memory than its largest row.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from kto_lab.feedback.rows import settings
from kto_lab.feedback.rows.blocks import Rows, in_blocks
from kto_lab.feedback.rows.opening import Opened
from kto_lab.feedback.rows.raw import Raw, Unreadable
from kto_lab.feedback.rows.settings import Reading

_CHUNK, _BEGIN = 2**18, 2**16
# Larger integers become floats in orjson.
_EXACT = 2.0**63
_READ_EXACTLY = frozenset({str, bool, int, type(None)})
_LONG_NUMBER = re.compile(rb"\d{19}")
# The next bracket outside of strings; possessive, so that no input makes it search again.
_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+([{}\[\]])', re.DOTALL)
# What stands between the elements of a list, apart from commas.
_SCALAR = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^,\s"]++', re.DOTALL)
_NO_OBJECT = Unreadable("no JSON object", 'Write a row as {"prompt": ...}.')


def read_json(opened: Opened) -> Iterator[Rows]:
    """The rows of a file: "thumbs.jsonl:7" is a line, "thumbs.json[12]" an element of a list (or an object)."""
    text = opened.text()
    begin = text.peek(_BEGIN)[:_BEGIN].lstrip()
    if begin.startswith(b"["):
        rows = _elements(_pieces(text, depth=1), opened)
    elif begin.split(b"\n", 1)[0].strip() == b"{" or _goes_on(begin):
        rows = _elements(_pieces(text, depth=0), opened)
    else:
        rows = _lines(text, opened)
    yield from in_blocks(rows)


def _goes_on(begin: bytes) -> bool:
    """Whether an object begins in the first line and does not end in it."""
    line, *rest = begin.split(b"\n", 1)
    if not rest or not line.startswith(b"{") or line.rstrip().endswith(b"}"):
        return False
    return rest[0].lstrip().startswith((b'"', b"}", b"]"))


def _lines(text: io.BufferedReader, opened: Opened) -> Iterator[Raw]:
    """The lines of a text that are not empty, each parsed on its own."""
    number = 0
    place, reading = opened.place, opened.reading
    while line := text.readline(settings.LARGEST):
        number += 1
        if len(line) == settings.LARGEST and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = text.readline(settings.LARGEST)
            yield f"{place}:{number}", Unreadable(f"a line of more than {settings.LARGEST >> 20} MB")
        elif not line.isspace():
            yield f"{place}:{number}", _parsed(line, reading)


def _elements(pieces: Iterator[bytes | Unreadable], opened: Opened) -> Iterator[Raw]:
    """The elements of a list, each parsed on its own."""
    for number, piece in enumerate(pieces):
        place = f"{opened.place}[{number}]"
        yield place, piece if isinstance(piece, Unreadable) else _parsed(piece, opened.reading)


def _parsed(text: bytes, reading: Reading) -> dict[str, Any] | Unreadable:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parsed_exactly(text, reading)
    if type(value) is not dict:
        return _NO_OBJECT
    if _READ_EXACTLY.issuperset(map(type, value.values())):
        return value
    for one in value.values():
        kind = type(one)
        if (kind is float and not -_EXACT < one < _EXACT) or (
            (kind is dict or kind is list) and _LONG_NUMBER.search(text)
        ):
            return _parsed_exactly(text, reading)
    return value


def _parsed_exactly(text: bytes, reading: Reading) -> dict[str, Any] | Unreadable:
    """As Python's own parser has it: it knows NaN, integers of any length and half characters, and says what is wrong.

    It takes ten times as long.
    """
    try:
        value = json.loads(text.decode().strip())
    except UnicodeDecodeError as error:
        return Unreadable(f"this is no UTF-8 text ({error.reason})", reading.no_text(text))
    except RecursionError:
        return Unreadable("broken JSON: nested too deep")
    except json.JSONDecodeError as error:
        return Unreadable(
            f"broken JSON: {error.msg} at character {error.pos + 1}", "Each row must be one JSON object, on one line."
        )
    except ValueError:
        return Unreadable("broken JSON: a number of too many digits")
    return value if isinstance(value, dict) else _NO_OBJECT


def _pieces(handle: io.BufferedReader, *, depth: int) -> Iterator[bytes | Unreadable]:
    """The texts of a list's elements, cut at their brackets.

    Args:
        handle: the text.
        depth: in how many brackets an element stands: 1 in a list, 0 where elements follow one another.
    """
    text = b""
    kept = 0  # where the element begins, or what stands between two elements
    scanned = 0  # the end of the last bracket
    within, now = depth, 0
    while True:
        found = _BRACKET.match(text, scanned)
        if found is None:
            if len(text) - kept > settings.LARGEST:
                yield Unreadable(f"more than {settings.LARGEST >> 20} MB with no end; the rest was not read", last=True)
                return
            # Twice as much each time: a long element is scanned twice at most.
            more = handle.read(max(_CHUNK, len(text) - kept))
            if not more:
                yield from _ending(text[kept:], now, within)
                return
            text, scanned, kept = text[kept:] + more, scanned - kept, 0
            continue
        scanned = found.end()
        opens = found.group(1) in b"{["
        now += 1 if opens else -1
        if opens and now == within + 1:
            yield from _scalars(text[kept : scanned - 1])
            kept = scanned - 1
        elif opens and now == within:
            kept = scanned
        elif not opens and now == within:
            yield text[kept:scanned]
            kept = scanned
        elif now < within:
            yield from _scalars(text[kept : scanned - 1])
            if text[scanned:].strip() or any(block.strip() for block in iter(lambda: handle.read(_CHUNK), b"")):
                yield Unreadable("text after the end of the list", last=True)
            return


def _ending(rest: bytes, now: int, within: int) -> Iterator[Unreadable]:
    """What is wrong where the text ends: nothing after the last of elements that follow one another."""
    if now == within:
        yield from _scalars(rest)
        if within == 0:
            return
    where = "within this row" if now > within else "before the list does"
    yield Unreadable(f"the file ends {where}", "Get the file again.", last=True)


def _scalars(between: bytes) -> Iterator[Unreadable]:
    for _ in _SCALAR.finditer(between):
        yield _NO_OBJECT
