"""Sampled answers of templates with markup for reasoning: words and reasoning apart, in every place that reads them."""

from pathlib import Path

import pytest

from kto_lab.evaluation.answers import answer_prompts
from kto_lab.feedback.checkers import arithmetic_checks
from kto_lab.feedback.collect import Sampling, collect, words
from kto_lab.feedback.prompts import CheckedPrompt
from kto_lab.feedback.table import build_table
from kto_lab.models.ending import Sampled
from kto_lab.models.reasoning import Markup
from kto_lab.models.sequences import completions_of
from kto_lab.models.tokens import Encoder
from tests.chat_shapes import SHAPES, shaped
from tests.taught import taught

THINKING = [name for name, shape in SHAPES.items() if shape.thought is not None]
SUM = [{"role": "user", "content": "3+3="}]
ANSWER = {"role": "assistant", "content": "6", "reasoning_content": "5 or 7"}


@pytest.mark.parametrize("shape", THINKING)
def test_a_sampled_answer_is_read_as_the_message_that_it_is(shape: str) -> None:
    encoder = Encoder(shaped(shape))
    ending, tokens = encoder.ending(chat=True), encoder.completion(SUM, ANSWER, finished=True)
    assert ending.split(tokens) == Sampled("6", len(tokens) - 1, True, "5 or 7")
    # Wherever it is cut, what was thought is not what was said.
    found = [ending.split(tokens[:length]) for length in range(len(tokens))]
    assert {said.words for said in found} == {"", "6"} and not any(said.finished for said in found)
    assert all("5 or 7".startswith(said.reasoning[:6]) for said in found if not said.words)
    assert [said.words for said in found] == sorted(said.words for said in found)


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in THINKING])
def test_templates_without_a_place_for_reasoning_leave_answers_whole(shape: str) -> None:
    encoder = Encoder(shaped(shape))
    text = "<think>\nwhy\n</think>\n\n6"
    tokens = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encoder.ending(chat=True).split(tokens)[0::3] == (text, "")


def test_words_follow_the_last_end_of_the_reasoning() -> None:
    markup = Markup("<think></think>", "<think>", "</think>")
    assert markup.part("<think>so </think> it is</think> 6") == ("so </think> it is", "6")
    assert markup.part("<think></think>6") == ("", "6")
    assert markup.part("6") == ("", "6")
    assert markup.part("<thi") == ("", "")


@pytest.mark.parametrize(
    "shape", [pytest.param("empty thinking written into the last turn", marks=pytest.mark.slow), "channels"]
)
def test_the_words_are_checked_and_the_reasoning_is_kept(
    shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Encoder(shaped(shape))
    prompt, said = encoder.prompt(SUM), encoder.completion(SUM, ANSWER, finished=True)
    model = taught(encoder.tokenizer, [(prompt, said)])
    checks = arithmetic_checks("6")
    row = {"prompt": SUM, "completion": "6", "desirable": True, "checks": checks, "split": "test"}
    table = build_table([row], source="sums", held_out=0)
    (answer,) = answer_prompts(model, encoder, table, prompts=1, max_new_tokens=99, batch_tokens=1000, seed=0)
    assert (answer.answer, answer.reasoning, answer.score) == ("6", "5 or 7", 1.0)
    assert "cut in their reasoning" not in capsys.readouterr().out
    (cut,) = answer_prompts(model, encoder, table, prompts=1, max_new_tokens=15, batch_tokens=1000, seed=0)
    assert (cut.answer, cut.score) == ("", 0.0) and "5 or 7".startswith(cut.reasoning) and cut.reasoning
    assert "1 of 1 answers were cut in their reasoning" in capsys.readouterr().out
    # Collected thumbs are trained as they were sampled.
    sampling = Sampling(1, 0, 1e-4, 99, 1, 1, 0, 0.0)
    (thumb,) = collect(
        model, encoder, [CheckedPrompt(SUM, checks, "sum")], sampling, tmp_path / "shards", provenance={}
    )
    assert (words(thumb), thumb["desirable"]) == ("6", True)
    (message,) = completions_of(build_table([thumb], source="collected", held_out=0))
    assert encoder.completion(SUM, message, finished=True) == said
