"""What an answer of Open WebUI holds beside its text: reasoning, calls of tools and code runs, folded into the page.

Read from Open WebUI's `utils/middleware.py` (`serialize_content_blocks`), which writes a message's content as text with

    <details type="reasoning" done="true" duration="3">\\n<summary>Thought</summary>\\n> one line\\n</details>
    <details type="tool_calls" done="true" id="..." name="weather" arguments="..." result="...">...</details>
    <details type="code_interpreter" done="true" output="...">...</details>

where attributes are JSON texts, escaped for HTML.
"""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

from kto_lab.feedback.messages import decoded

_FOLD = re.compile(r'<details type="(reasoning|tool_calls|code_interpreter)"([^>]*)>?')
_ATTRIBUTE = re.compile(r'([a-z]+)="([^"]*)"')
_SUMMARY = re.compile(r"^\s*<summary>[^<]*</summary>")
_ENDS = "</details>"


def unfolded(text: str) -> list[dict[str, Any]]:
    """The turns that an answer's text stands for.

    A call and its result are turns of their own, with what was said before; the last turn is the answer itself, which
    may be empty. Reasoning goes to the turn that it came before. Code runs are left out.
    """
    if not _FOLD.search(text):
        return [{"role": "assistant", "content": text}]
    turns: list[dict[str, Any]] = []
    said: list[str] = []
    thoughts: list[str] = []
    for before, kind, attributes, inner in _folds(text):
        said.append(before)
        if kind == "reasoning":
            thoughts.append(_thought(inner))
        elif kind == "tool_calls":
            call, result = _call(attributes)
            turns.append({**_turn(said, thoughts), "tool_calls": [call]})
            if result is not None:
                turns.append({"role": "tool", "content": result, "name": call["name"], "tool_call_id": call["id"]})
            said, thoughts = [], []
    return [*turns, _turn(said, thoughts)]


def _folds(text: str) -> Iterator[tuple[str, str, str, str]]:
    """The text before each fold, its kind, attributes and inside; at the end the text after the last, of no kind.

    Many folds that never end cost no more than one.
    """
    at = 0
    while begin := _FOLD.search(text, at):
        end = text.find(_ENDS, begin.end())
        if end < 0:
            break
        yield text[at : begin.start()].rstrip("\n"), begin[1], begin[2], text[begin.end() : end]
        at = end + len(_ENDS)
    yield text[at:], "", "", ""


def _turn(said: list[str], thoughts: list[str]) -> dict[str, Any]:
    content = "".join(said).strip("\n")
    thought = "\n".join(filter(None, thoughts))
    return {"role": "assistant", "content": content, **({"reasoning_content": thought} if thought else {})}


def _thought(inner: str) -> str:
    lines = html.unescape(_SUMMARY.sub("", inner)).strip().split("\n")
    return "\n".join(line.removeprefix(">").removeprefix(" ") for line in lines)


def _call(attributes: str) -> tuple[dict[str, Any], str | None]:
    """A call, and what it gave: None where it did not end."""
    found = {name: html.unescape(value) for name, value in _ATTRIBUTE.findall(attributes)}
    call = {"id": found.get("id"), "name": found.get("name"), "arguments": decoded(_of_json(found.get("arguments")))}
    result = _of_json(found["result"]) if found.get("result") else None
    return call, result if result is None or isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def _of_json(value: str | None) -> Any:
    try:
        return json.loads(value or "{}")
    except (ValueError, RecursionError):
        return value
