import json
from pathlib import Path

import pytest
import torch

from kto_lab.errors import LabError
from kto_lab.feedback.checkers import arithmetic_checks
from kto_lab.feedback.whole import as_text
from kto_lab.judging.answer import Answer
from kto_lab.labeling.labels import Label, Labelled, NoLabel
from kto_lab.labeling.rules import NO_CHECKS, NO_RULE, Rules, read_rules

BOOK = """
otherwise: none
rules:
  - name: rude
    thumb: down
    when: {keywords: [idiot]}
  - name: thanks
    thumb: up
    when: {keywords: [thank you, thanks]}
  - name: short
    thumb: down
    when: {words: {max: 1}}
"""


def label(folder: Path, book: str, *completions: str, seconds: float = 1.0, checks: str = "") -> Labelled:
    file = folder / "rules.yaml"
    file.write_text(book)
    answers = [Answer("p", text, f"row {row}", more={"checks": checks}) for row, text in enumerate(completions)]
    return Rules(str(file), seconds).label(answers, [], torch.device("cpu"))


def test_the_first_rule_that_matches_gives_the_thumb_and_is_named(tmp_path: Path) -> None:
    found = label(tmp_path, BOOK, "thanks, idiot", "many thanks", "thanks", "no match here")
    assert found.verdicts == [
        Label(False, "rude", scores={"rude": 1.0, "thanks": 1.0}),
        Label(True, "thanks", scores={"thanks": 1.0}),
        Label(True, "thanks", scores={"thanks": 1.0, "short": 1.0}),
        NoLabel(NO_RULE),
    ]
    assert found.numbers["rules"]["thanks"] == {"thumb": "up", "matches": 3, "decides": 2, "contradicted": 1}
    assert found.numbers["rules"]["short"] == {"thumb": "down", "matches": 1, "decides": 0, "contradicted": 1}


def test_rules_read_what_was_said_and_not_what_was_thought(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(BOOK)
    message = {"role": "assistant", "content": "many thanks", "reasoning_content": "what an idiot"}
    answer = Answer("p", as_text(message), "here", more={"message": json.dumps(message)})
    found = Rules(str(tmp_path / "rules.yaml"), 1.0).label([answer], [], torch.device("cpu"))
    assert found.verdicts == [Label(True, "thanks", scores={"thanks": 1.0})]


def test_otherwise_is_a_thumb_of_its_own(tmp_path: Path) -> None:
    found = label(tmp_path, BOOK.replace("otherwise: none", "otherwise: up"), "no match here")
    assert found.verdicts == [Label(True, "otherwise")]


def test_a_pattern_that_is_too_slow_leaves_its_answer_out(tmp_path: Path) -> None:
    book = BOOK.replace("{keywords: [thank you, thanks]}", "{regex: '(?:a|aa|a?)+$'}").replace("thanks", "slow")
    hostile = "a" * 5000 + "b c"
    found = label(tmp_path, book, hostile, "you idiot " + hostile, "b", seconds=0.02)
    assert found.verdicts[0] == NoLabel("the pattern of rule 'slow' took too long")
    assert isinstance(found.verdicts[1], Label) and found.verdicts[1].by == "rude", "an earlier rule has decided"
    with pytest.raises(
        LabError, match=r"rule 'slow'.*took longer than 0\.001 s on more than 20 answers, last on row 20"
    ):
        label(tmp_path, book, *[hostile] * 30, seconds=0.001)


def test_an_answer_without_checks_is_left_out_where_they_are_asked_for(tmp_path: Path) -> None:
    book = "rules: [{name: right, thumb: up, when: {checker: own}}]"
    assert label(tmp_path, book, "42").verdicts == [NoLabel(NO_CHECKS)]
    right, wrong = label(tmp_path, book, "42", "43", checks=arithmetic_checks("42")).verdicts
    assert (right, wrong) == (Label(True, "right", scores={"right": 1.0}), NoLabel(NO_RULE))


def test_the_example_that_ships_is_sound(tmp_path: Path) -> None:
    texts = ["I'm sorry, but no.", "It is red.", "It is a very long", "x"]
    answers = [Answer("Say it.", text, "here", more={"finished": text != texts[2]}) for text in texts]
    found = Rules("example", 1.0).label(answers, [], torch.device("cpu")).verdicts
    assert [verdict.desirable if isinstance(verdict, Label) else None for verdict in found] == [
        False,
        True,
        False,
        None,
    ]


@pytest.mark.parametrize(
    ("book", "said"),
    [
        ("rules: []", "'rules' must be a list with at least one"),
        ("[a]", "a mapping at its top"),
        ("rules: [{thumb: up, when: {keywords: a}}]", "rule 1 has no name"),
        (BOOK.replace("thumb: up", "thumb: good"), "rule 'thanks': the thumb is 'good'"),
        (BOOK.replace("name: short", "name: rude"), "two rules are named 'rude'"),
        (BOOK.replace("name: short", "name: otherwise"), "rule 'otherwise': this name stands for"),
        (BOOK.replace("otherwise: none", "otherwise: maybe"), "'otherwise' is 'maybe'"),
        (BOOK.replace("when: {keywords: [idiot]}", "if: {keywords: [idiot]}"), "rule 'rude': nothing reads 'if'"),
        (BOOK.replace("    when: {words: {max: 1}}\n", ""), "rule 'short': 'when' is missing"),
        (
            BOOK.replace("    thumb: up\n", "    thumb: up\n    thumb: down\n"),
            r"rules\.yaml:9: .*'thumb' is there twice",
        ),
        (BOOK + "  - {name: [", r"rules\.yaml:\d+: broken YAML"),
        ("otherwise: [up]\n" + BOOK.replace("otherwise: none\n", ""), "'otherwise' is"),
    ],
)
def test_a_mistaken_file_says_what_and_where(tmp_path: Path, book: str, said: str) -> None:
    with pytest.raises(LabError, match=said):
        label(tmp_path, book, "text")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no file .*nope\.yaml of rules \(labeler\.path\)"):
        read_rules(tmp_path / "nope.yaml")
