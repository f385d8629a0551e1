"""Conditions of rules: what can be tested of an answer, and how each is written in YAML.

A condition is a mapping with one key, the kind. `all`, `any` and `not` hold further conditions.

| kind | written | holds where |
|---|---|---|
| `keywords` | a word or phrase, or a list of them | one of them is there, as whole words, in any case |
| `regex` | a pattern (of the package regex) | it is found somewhere |
| `starts_with`, `ends_with` | text | the answer does, apart from white space around it |
| `characters`, `words` | `{min: 1, max: 80}`, either or both | the count is within, ends included |
| `format` | a name in FORMATS, or a list of names | it has one of these forms |
| `finished` | true or false | the answer ended by itself, or was cut |
| `checker` | `own`, or checks as in `feedback/checkers.py` | the checker passes it |
| `sentiment` | `{min: 0.2, max: 1}` | VADER's compound score, -1 to 1, is within |
| `prompt` | one of the kinds of text above | it holds of the prompt's text, not the answer's |
| `all`, `any` | a list of conditions | all hold, or one does |
| `not` | a condition | it does not hold |
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import regex

from kto_lab.errors import LabError
from kto_lab.feedback.checkers import pass_or_fail, read_checks, score_answer
from kto_lab.judging.answer import Answer


@dataclass(frozen=True)
class Text:
    """What a condition looks at.

    Attributes:
        text: the answer, or the prompt.
        answer: the whole of it, for conditions on more than text.
        seconds: how long a regular expression may take.
    """

    text: str
    answer: Answer
    seconds: float


Condition: TypeAlias = Callable[[Text], bool]


class TooSlowError(Exception):
    """A regular expression took longer than it may."""


class NoChecksError(Exception):
    """A condition asks for the answer's own checker, and its row names none."""


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _lines_like(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: any(compiled.match(line) for line in text.splitlines())


FORMATS: dict[str, Callable[[str], bool]] = {
    "json": _is_json,
    "list": _lines_like(r" {0,3}[-*+] +\S"),
    "numbered_list": _lines_like(r" {0,3}\d{1,3}[.)] +\S"),
    "heading": _lines_like(r"#{1,6} +\S"),
    "code_block": lambda text: sum(line.lstrip().startswith("```") for line in text.splitlines()) >= 2,
    "table": _lines_like(r" {0,3}\|? *:?-+:? *\|[ |:-]*$"),
    "one_line": lambda text: "\n" not in text.strip(),
    "lowercase": lambda text: text == text.lower(),
    "uppercase": lambda text: text == text.upper(),
    "quoted": lambda text: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
    "number": lambda text: re.fullmatch(r"\s*[-+]?\d+(\.\d+)?\s*", text) is not None,
}


def condition(node: Any, place: str) -> Condition:
    """The condition that a piece of YAML says.

    Args:
        node: as the YAML was read.
        place: where it stands, for messages: "rules.yaml: rule 'refusal', when".

    Raises:
        LabError: there is no such kind, or what it is given does not fit it.
    """
    if not isinstance(node, Mapping) or len(node) != 1:
        count = f"{len(node)} keys" if isinstance(node, Mapping) else repr(node)
        raise LabError(
            f"{place}: a condition is a mapping with one key, such as 'keywords: [sorry]'; this is {count}. Put "
            "several under all: or any:, as a list."
        )
    ((kind, given),) = node.items()
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise LabError(f"{place}: there is no condition {kind!r}.{hint} Known: {', '.join(KINDS)}.")
    return KINDS[kind](given, f"{place}.{kind}")


def _keywords(given: Any, place: str) -> Condition:
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise LabError(f"{place}: give a word or phrase, or a list of them; this is {given!r}. Put numbers in quotes.")
    # White space in a phrase stands for any, so that a line break within it is found, too.
    phrases = (r"\s+".join(re.escape(part) for part in word.split()) for word in words)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)", re.IGNORECASE)
    return lambda seen: pattern.search(seen.text) is not None


def _regex(given: Any, place: str) -> Condition:
    try:
        pattern = regex.compile(_text(given, place))
    except regex.error as error:
        raise LabError(f"{place}: {given!r} is no regular expression: {error}.") from error
    except RecursionError as error:
        raise LabError(f"{place}: {str(given)[:80]!r}... is nested too deeply. Split it into several.") from error

    def holds(seen: Text) -> bool:
        try:
            return pattern.search(seen.text, timeout=seen.seconds) is not None
        except TimeoutError as error:
            raise TooSlowError(place) from error

    return holds


def _starts_with(given: Any, place: str) -> Condition:
    text = _text(given, place)
    return lambda seen: seen.text.lstrip().startswith(text)


def _ends_with(given: Any, place: str) -> Condition:
    text = _text(given, place)
    return lambda seen: seen.text.rstrip().endswith(text)


def _characters(given: Any, place: str) -> Condition:
    low, high = _range(given, place)
    return lambda seen: low <= len(seen.text) <= high


def _words(given: Any, place: str) -> Condition:
    low, high = _range(given, place)
    return lambda seen: low <= len(seen.text.split()) <= high


def _sentiment(given: Any, place: str) -> Condition:
    low, high = _range(given, place)
    return lambda seen: low <= score_answer('{"checker": "sentiment"}', seen.text) <= high


def _format(given: Any, place: str) -> Condition:
    names = given if isinstance(given, list) else [given]
    if not names or (unknown := [name for name in names if name not in tuple(FORMATS)]):
        raise LabError(f"{place}: there is no format {unknown[0] if names else given!r}. Known: {', '.join(FORMATS)}.")
    return lambda seen: any(FORMATS[name](seen.text) for name in names)


def _finished(given: Any, place: str) -> Condition:
    if not isinstance(given, bool):
        raise LabError(f"{place}: this is {given!r}; it must be true or false.")
    return lambda seen: bool(seen.answer.more.get("finished", True)) is given


def _checker(given: Any, place: str) -> Condition:
    if given == "own":
        return _passes_its_own
    if not isinstance(given, Mapping):
        raise LabError(f"{place}: write 'own', or checks such as {{checker: arithmetic, answer: '42'}}; not {given!r}.")
    checks = read_checks(dict(given), place)
    if not pass_or_fail(checks):
        raise LabError(f"{place}: A sentiment is no pass or fail: use the condition 'sentiment'.")
    return lambda seen: bool(score_answer(checks, seen.text))


def _passes_its_own(seen: Text) -> bool:
    checks = seen.answer.more.get("checks")
    if not checks or not pass_or_fail(checks):
        raise NoChecksError
    return bool(score_answer(checks, seen.text))


def _prompt(given: Any, place: str) -> Condition:
    if isinstance(given, Mapping) and (wrong := [kind for kind in given if kind in NOT_OF_PROMPTS]):
        raise LabError(f"{place}: {wrong[0]!r} is asked of answers, not of prompts.")
    inner = condition(given, place)
    return lambda seen: inner(Text(seen.answer.prompt_text, seen.answer, seen.seconds))


def _all(given: Any, place: str) -> Condition:
    parts = _several(given, place)
    return lambda seen: all(part(seen) for part in parts)


def _any(given: Any, place: str) -> Condition:
    parts = _several(given, place)
    return lambda seen: any(part(seen) for part in parts)


def _not(given: Any, place: str) -> Condition:
    inner = condition(given, place)
    return lambda seen: not inner(seen)


KINDS: dict[str, Callable[[Any, str], Condition]] = {
    "keywords": _keywords,
    "regex": _regex,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "characters": _characters,
    "words": _words,
    "format": _format,
    "finished": _finished,
    "checker": _checker,
    "sentiment": _sentiment,
    "prompt": _prompt,
    "all": _all,
    "any": _any,
    "not": _not,
}
NOT_OF_PROMPTS = ("finished", "checker", "prompt", "all", "any", "not")


def _several(given: Any, place: str) -> list[Condition]:
    if not isinstance(given, list) or not given:
        raise LabError(f"{place}: give a list of conditions; this is {given!r}.")
    return [condition(item, f"{place}[{number}]") for number, item in enumerate(given, start=1)]


def _text(given: Any, place: str) -> str:
    if not isinstance(given, str) or not given:
        raise LabError(f"{place}: give text; this is {given!r}. Put numbers and yes or no in quotes.")
    return given


def _range(given: Any, place: str) -> tuple[float, float]:
    """Least and most, either of which may be left out."""
    numbers = isinstance(given, Mapping) and all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in given.values()
    )
    if not numbers or not given or set(given) - {"min", "max"}:
        raise LabError(f"{place}: give min, max or both, as {{min: 1, max: 80}}; this is {given!r}.")
    low, high = float(given.get("min", float("-inf"))), float(given.get("max", float("inf")))
    if low > high:
        raise LabError(f"{place}: min is {given['min']} and max {given['max']}; nothing is within.")
    return low, high
