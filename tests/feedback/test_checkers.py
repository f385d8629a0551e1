import json

import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.checkers import arithmetic_checks, ifeval_checks, metric_name, read_checks, score_answer

TITLE = ("detectable_format:title", {})
SENTIMENT = json.dumps({"checker": "sentiment"})


@pytest.mark.parametrize(
    ("instruction", "kwargs", "passes", "fails"),
    [
        ("detectable_format:title", {}, "<<Rain>> It falls.", "Rain. It falls."),
        ("punctuation:no_comma", {}, "Rain falls.", "Rain, it falls."),
        ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "Rain falls.", "It rains now."),
        ("startend:end_checker", {"end_phrase": "The end."}, "Rain. The end.", "The end. Rain."),
    ],
)
def test_ifeval_passes_and_fails(instruction: str, kwargs: dict[str, object], passes: str, fails: str) -> None:
    checks = ifeval_checks((instruction, kwargs))
    assert metric_name(checks) == "pass_rate"
    assert (score_answer(checks, passes), score_answer(checks, fails)) == (1.0, 0.0)


def test_every_instruction_must_be_followed_and_an_empty_answer_follows_none() -> None:
    both = ifeval_checks(TITLE, ("punctuation:no_comma", {}))
    assert score_answer(both, "<<Rain>> It falls.") == 1.0
    assert score_answer(both, "<<Rain>> It, falls.") == 0.0
    assert score_answer(ifeval_checks(("punctuation:no_comma", {})), " \n") == 0.0


@pytest.mark.parametrize(("answer", "score"), [("42", 1.0), (" 42\n", 1.0), ("042", 0.0), ("42.", 0.0), ("", 0.0)])
def test_arithmetic_wants_exactly_the_answer(answer: str, score: float) -> None:
    assert metric_name(arithmetic_checks("42")) == "pass_rate"
    assert score_answer(arithmetic_checks("42"), answer) == score


def test_sentiment_is_a_scale_around_zero() -> None:
    assert metric_name(SENTIMENT) == "sentiment"
    good, bad, none = (score_answer(SENTIMENT, text) for text in ("I love it!", "I hate it!", "It is a table."))
    assert -1 <= bad < none == 0.0 < good <= 1


def test_the_language_check_gives_one_verdict() -> None:
    checks = ifeval_checks(("change_case:english_lowercase", {}))
    for text in ("ok so so la la", "the rain falls on the old town.", "de la casa the"):
        assert len({score_answer(checks, text) for _ in range(20)}) == 1


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ("{", "no JSON"),
        ("[]", "no known checker. Known: ifeval, arithmetic, sentiment"),
        ('{"checker": "magic"}', "no known checker"),
        ('{"checker": "arithmetic", "answer": 42}', "'answer' that is text"),
        ('{"checker": "ifeval"}', "need 'instructions'"),
        ('{"checker": "ifeval", "instructions": []}', "need 'instructions'"),
        (ifeval_checks(("startend:nothing", {})), "no IFEval instruction 'startend:nothing'"),
        (ifeval_checks(("detectable_format:title", {"colour": "red"})), "does not take {'colour': 'red'}"),
    ],
)
def test_checks_that_cannot_be_run_are_refused(checks: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        score_answer(checks, "an answer")
    with pytest.raises(LabError, match=rf"mine\.jsonl:3: .*{message}"):
        read_checks(checks, "mine.jsonl:3")


def test_checks_of_a_user_are_text_or_an_object_and_every_instruction_is_tried() -> None:
    given = {"checker": "arithmetic", "answer": "42"}
    assert json.loads(read_checks(given, "here")) == given and read_checks(json.dumps(given), "here") == json.dumps(
        given
    )
    assert read_checks(None, "here") == read_checks("", "here") == ""
    # An answer fails at the first instruction that it does not follow, and would not reach the second.
    with pytest.raises(LabError, match=r"here: .*no IFEval instruction 'startend:nothing'"):
        read_checks(ifeval_checks(TITLE, ("startend:nothing", {})), "here")
    with pytest.raises(LabError, match=r"here: the checks are .*no JSON"):
        read_checks({"checker": {1, 2}}, "here")
