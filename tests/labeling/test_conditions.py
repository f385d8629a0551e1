from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_lab.errors import LabError
from kto_lab.feedback.checkers import arithmetic_checks
from kto_lab.judging.answer import Answer
from kto_lab.labeling.conditions import FORMATS, KINDS, NoChecksError, Text, TooSlowError, condition


def holds(written: str, completion: str, prompt: str = "Say something.", **more: Any) -> bool:
    answer = Answer(prompt, completion, "here", more=more)
    return condition(yaml.safe_load(written), "rules.yaml: rule 'x', when")(Text(completion, answer, 1.0))


@pytest.mark.parametrize(
    ("written", "yes", "no"),
    [
        ("{keywords: sorry}", "I am SORRY.", "sorrynot"),
        ("{keywords: [no way, c++]}", "there is no\n way", "nowhere"),
        ("{keywords: [c++]}", "I like C++.", "C is old"),
        ("{regex: '^a+$'}", "aaa", "aab"),
        ("{starts_with: Dear}", "  Dear you", "dear you"),
        ("{ends_with: bye.}", "Good bye.\n", "bye. And more"),
        ("{characters: {max: 3}}", "abc", "abcd"),
        ("{words: {min: 2, max: 3}}", "one two three", "one"),
        ("{format: json}", '{"a": [1]}', "{a: 1}"),
        ("{format: list}", "- one\n- two", "one - two"),
        ("{format: numbered_list}", "1. one", "in 1999. one"),
        ("{format: heading}", "# Title\ntext", "#hashtag"),
        ("{format: code_block}", "```py\nx\n```", "`x`"),
        ("{format: table}", "| a | b |\n|---|---|\n| 1 | 2 |", "a | b"),
        ("{format: one_line}", "one line\n", "two\nlines"),
        ("{format: lowercase}", "all low", "Not"),
        ("{format: uppercase}", "LOUD", "Loud"),
        ("{format: quoted}", '"said"', '"'),
        ("{format: number}", " -3.5 ", "3 apples"),
        ("{format: [json, number]}", "7", "seven"),
        ("{sentiment: {min: 0.3}}", "a wonderful, lovely film", "an awful, boring film"),
        ("{checker: {checker: arithmetic, answer: '42'}}", "42", "43"),
        ("{not: {keywords: a}}", "b", "a"),
        ("{all: [{keywords: a}, {keywords: b}]}", "a b", "a c"),
        ("{any: [{keywords: a}, {keywords: b}]}", "b", "c"),
    ],
)
def test_each_kind(written: str, yes: str, no: str) -> None:
    assert holds(written, yes)
    assert not holds(written, no)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KINDS, "min", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(list(KINDS)), ANYTHING, min_size=1, max_size=1), st.text(max_size=30))
def test_whatever_is_written_is_a_condition_or_an_error_for_a_person(node: Any, text: str) -> None:
    answer = Answer("p", text, "here", more={"checks": arithmetic_checks("42")})
    try:
        held = condition(node, "here")(Text(text, answer, 1.0))
    except LabError:
        return
    assert held in (True, False)


def test_every_format_is_tried_above() -> None:
    assert len(FORMATS) == 11


def test_what_is_asked_of_the_prompt_and_of_the_row() -> None:
    assert holds("{prompt: {keywords: json}}", "no", prompt="Answer in JSON.")
    assert not holds("{prompt: {keywords: json}}", "json", prompt="Answer.")
    assert holds("{finished: false}", "cut", finished=False)
    assert holds("{finished: true}", "whole")
    assert holds("{checker: own}", "42", checks=arithmetic_checks("42"))
    assert not holds("{checker: own}", "43", checks=arithmetic_checks("42"))
    for checks in ("", '{"checker": "sentiment"}'):
        with pytest.raises(NoChecksError):
            holds("{checker: own}", "42", checks=checks)


def test_a_pattern_that_takes_exponential_time_is_stopped() -> None:
    answer = Answer("p", "a" * 5000 + "b", "here")
    slow = condition({"regex": "(?:a|aa|a?)+$"}, "here")
    with pytest.raises(TooSlowError):
        slow(Text(answer.completion, answer, 0.05))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{keyword: x}", "no condition 'keyword'. Did you mean 'keywords'"),
        ("{keywords: []}", "keywords: give a word"),
        ("{keywords: [1]}", "Put numbers in quotes"),
        ("{keywords: a, words: {min: 1}}", "2 keys. Put several under all"),
        ("[a]", r"this is \['a'\]"),
        ("{regex: '('}", "no regular expression: missing"),
        (f"{{regex: '{'(' * 3000}a{')' * 3000}'}}", "nested too deeply. Split it into several"),
        ("{regex: yes}", "Put numbers and yes or no in quotes"),
        ("{words: 3}", "give min, max or both"),
        ("{words: {min: 3, most: 4}}", "give min, max or both"),
        ("{words: {min: 3, max: 2}}", "nothing is within"),
        ("{words: {min: true}}", "give min, max or both"),
        ("{format: yml}", "no format 'yml'. Known: json"),
        ("{finished: 1}", "must be true or false"),
        ("{checker: mine}", "write 'own'"),
        ("{checker: {checker: sentiment}}", "use the condition 'sentiment'"),
        ("{checker: {checker: ifeval, instructions: [{id: nope, kwargs: {}}]}}", "no IFEval instruction 'nope'"),
        ("{prompt: {finished: true}}", "'finished' is asked of answers"),
        ("{all: {keywords: a}}", "give a list of conditions"),
        ("{any: [{keywords: a}, {not: {regx: b}}]}", r"when\.any\[2\]\.not: there is no condition 'regx'"),
    ],
)
def test_a_mistake_says_where_it_is(written: str, said: str) -> None:
    with pytest.raises(LabError, match=f"rule 'x', .*{said}"):
        holds(written, "text")
