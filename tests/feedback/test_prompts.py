import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.checkers import score_answer
from kto_lab.feedback.prompts import FAMILIES, TOPICS, CheckedPrompt, arithmetic, from_file, instruction_checks
from kto_lab.feedback.table import prompt_id


def test_every_worked_answer_passes_its_own_check() -> None:
    worked = [item for item in instruction_checks() if item.worked]
    assert {item.group for item in worked} == {name for name, family in FAMILIES.items() if family.worked}
    for item in worked:
        question, answer = item.worked
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert score_answer(item.checks, answer["content"]) == 1.0, item.group
        assert not any(topic in question["content"] for topic in TOPICS), "the worked example gives a prompt away"


def test_every_check_can_fail() -> None:
    failing = "Well, this: is An Answer, of, course, much too long to be what was asked for in any of those few words."
    verdicts = {name: set() for name in FAMILIES}
    for item in instruction_checks():
        verdicts[item.group].add(score_answer(item.checks, failing))
    assert all(0.0 in found for found in verdicts.values())


def test_instruction_checks_are_600_distinct_chat_prompts_in_a_fixed_mixed_order() -> None:
    prompts = instruction_checks()
    assert prompts == instruction_checks()
    assert len({prompt_id(item.prompt) for item in prompts}) == len(prompts) == len(TOPICS) * len(FAMILIES) == 600
    assert set(Counter(item.group for item in prompts).values()) == {60}
    assert {item.group for item in prompts[:100]} == set(FAMILIES)
    assert all(len(item.prompt) == 1 for item in prompts)


def test_arithmetic_prompts_are_distinct_and_checked_with_the_right_answer() -> None:
    prompts = arithmetic(300, 20, seed=3)
    assert len({item.prompt for item in prompts}) == 300
    assert {item.group for item in prompts} == {"sum", "difference"}
    for item in prompts:
        assert isinstance(item.prompt, str)
        right = str(eval(item.prompt.removesuffix("=")))
        assert int(right) >= 0
        assert (score_answer(item.checks, right), score_answer(item.checks, right + "1")) == (1.0, 0.0)


def test_arithmetic_is_a_function_of_its_seed_and_fewer_are_the_start_of_more() -> None:
    assert arithmetic(50, 20, seed=0) == arithmetic(80, 20, seed=0)[:50]
    assert arithmetic(50, 20, seed=0) != arithmetic(50, 20, seed=1)


def test_arithmetic_refuses_more_sums_than_there_are() -> None:
    with pytest.raises(LabError, match="no 1000 distinct sums up to 9"):
        arithmetic(1000, 9, seed=0)


def write(path: Path, *lines: object) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


GOOD = {"prompt": [{"role": "user", "content": "Hi"}], "checks": {"checker": "sentiment"}}
TEXT = {"prompt": "1+1=", "checks": {"checker": "arithmetic", "answer": "2"}}
SHOWN = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


def own(path: str, ignore: Sequence[str] = ()) -> list[CheckedPrompt]:
    return from_file(path, "auto", None, None, None, ignore)


def test_what_a_line_holds_beside_is_said_and_an_error_where_it_changes_the_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write(tmp_path / "mine.jsonl", {**GOOD, "source": "a book"}, GOOD)
    assert len(own(plain)) == 2
    assert "not read: 'source' (text such as 'a book', 1 rows)" in " ".join(capsys.readouterr().out.split())
    own(plain, ["source"])
    assert capsys.readouterr().out == ""
    system = write(tmp_path / "mine.jsonl", {**GOOD, "system": "Answer in French."})
    with pytest.raises(LabError, match=r"mine\.jsonl: The column 'system' .*prompts\.ignore=\[system\]"):
        own(system)
    shown = write(tmp_path / "shown.jsonl", {**GOOD, "prompt": [{"role": "user", "content": "Hi", "documents": ["d"]}]})
    with pytest.raises(LabError, match=r"Messages hold 'documents'.*prompts\.ignore"):
        own(shown)
    assert own(shown, ["documents"])[0].prompt == GOOD["prompt"]
    assert own(system, ["system"])[0].prompt == GOOD["prompt"]


def test_from_file_reads_prompt_checks_group_and_worked(tmp_path: Path) -> None:
    first, second = own(write(tmp_path / "mine.jsonl", {**GOOD, "group": "greetings", "worked": SHOWN}, "", GOOD))
    assert (first.prompt, json.loads(first.checks), first.group) == (GOOD["prompt"], GOOD["checks"], "greetings")
    assert list(first.worked) == SHOWN
    assert (second.group, second.worked) == ("mine", ())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "broken JSON"),
        ("[1]", "no JSON object"),
        ({"prompt": "x"}, "the prompt has no 'checks'.*feedback label"),
        ({"prompt": "x", "checks": None}, "the prompt has no 'checks'"),
        ({"checks": {"checker": "sentiment"}}, "there is no 'prompt'"),
        ({**GOOD, "checks": {"checker": "arithmetic", "answer": "4"}}, "and in an earlier row .*sentiment"),
        ({**GOOD, "worked": 3}, "'worked' is 3"),
        ({"prompt": "x", "checks": {"checker": "magic"}}, "no known checker"),
        ({"prompt": "x", "checks": {"checker": "arithmetic", "answer": 2}}, "'answer' that is text"),
        ({"prompt": "", "checks": {"checker": "sentiment"}}, "the prompt is empty"),
        ({**TEXT, "worked": SHOWN}, "'worked' is for prompts that are chat messages"),
        ({**GOOD, "worked": ["Hello"]}, "a chat message is 'Hello'"),
    ],
)
def test_from_file_says_which_line_is_wrong(line: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=rf"mine\.jsonl:2: .*{message}"):
        own(write(tmp_path / "mine.jsonl", GOOD, line))


def test_from_file_refuses_no_file_no_prompt_and_two_kinds(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"prompts\.path: there is no file"):
        own(str(tmp_path / "none.jsonl"))
    with pytest.raises(LabError, match="no prompt in it"):
        own(write(tmp_path / "empty.jsonl", ""))
    with pytest.raises(LabError, match="Make them all one kind"):
        own(write(tmp_path / "mixed.jsonl", GOOD, TEXT))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(LabError, match="no UTF-8"):
        own(str(tmp_path / "latin.jsonl"))


def test_prompts_may_be_messages_of_other_tools_and_in_an_envelope(tmp_path: Path) -> None:
    rows = [{**GOOD, "prompt": {"from": "human", "value": "Hi"}}, {**GOOD, "prompt": json.dumps(GOOD["prompt"])}]
    found = own(write(tmp_path / "page.json", {"data": rows}))
    assert [one.prompt for one in found] == [GOOD["prompt"]] * 2


def test_prompts_keep_the_calls_of_earlier_turns_unless_they_are_ignored(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "clock", "arguments": {}}}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}]
    file = write(tmp_path / "called.jsonl", {**GOOD, "prompt": [*turns, {"role": "tool", "content": "noon"}]})
    (kept,), (left,) = own(file), own(file, ["tool_calls"])
    assert json.loads(kept.prompt[1]["tool_calls"]) == [call] and "tool_calls" not in left.prompt[1]  # type: ignore[index,typeddict-item]
