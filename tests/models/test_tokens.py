"""Tokens: turns, ends, and limits."""

from collections.abc import Callable
from datetime import datetime, tzinfo
from functools import partial
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from kto_lab.errors import LabError
from kto_lab.feedback.table import build_table
from kto_lab.models.tiny import byte_tokenizer
from kto_lab.models.tokens import Encoder, Lengths
from tests.small_tokenizers import (
    dated,
    end_and_more,
    end_as_text,
    end_not_eos,
    ending_each,
    instructions,
    told_to_end_each,
)

CHAT = [{"role": "user", "content": "hi"}]


def text(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_chat_prompts_end_with_the_generation_prompt(tokenizer: PreTrainedTokenizerFast, encoder: Encoder) -> None:
    assert text(tokenizer, encoder.prompt(CHAT)) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_finished_completion_ends_its_turn(tokenizer: PreTrainedTokenizerFast, encoder: Encoder) -> None:
    assert text(tokenizer, encoder.completion(CHAT, "yes", finished=True)) == "yes<|im_end|>"
    assert text(tokenizer, encoder.completion(CHAT, "yes", finished=False)) == "yes"
    assert text(tokenizer, encoder.completion("plain", "yes", finished=True)) == "yes<|im_end|>"
    assert encoder.ending(chat=True).stop_ids == (tokenizer.eos_token_id,)


def test_prompt_and_completion_together_are_the_template(tokenizer: PreTrainedTokenizerFast, encoder: Encoder) -> None:
    tokens = encoder.encode(CHAT, "yes")
    assert tokens is not None
    whole = tokenizer.apply_chat_template([*CHAT, {"role": "assistant", "content": "yes"}], tokenize=False)
    assert text(tokenizer, tokens.prompt + tokens.completion) == whole.rstrip()


def test_a_long_completion_is_cut_on_the_right() -> None:
    encoder = Encoder(byte_tokenizer(), Lengths(max_length=10, min_completion=2))
    tokens = encoder.encode("abcd", "0123456789")
    assert tokens is not None and len(tokens) == 10
    assert text(encoder.tokenizer, tokens.completion) == "012345"


def test_a_prompt_without_room_is_an_error_or_dropped_and_counted() -> None:
    table = build_table(
        [
            {"prompt": "a" * 20, "completion": "b", "desirable": True},
            {"prompt": "a", "completion": "c" * 30, "desirable": False},
        ],
        source="test",
        held_out=0.0,
    )
    with pytest.raises(LabError, match=r"20 tokens.*lengths\.overlong_prompt=drop"):
        Encoder(byte_tokenizer(), Lengths(max_length=21, min_completion=4)).encode_table(table)
    encoded = Encoder(byte_tokenizer(), Lengths(21, 4, "drop")).encode_table(table)
    assert (encoded.kept, encoded.dropped, encoded.cut, len(encoded.tokens)) == ([1], 1, 1, 1)


def test_no_chat_template_is_named() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(LabError, match="no chat template"):
        Encoder(tokenizer).prompt(CHAT)
    assert Encoder(tokenizer).prompt("plain") == tuple(tokenizer("plain")["input_ids"])


def test_a_template_that_rewrites_the_prompt_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% if add_generation_prompt %}ask{% else %}{{ messages[-1]['content'] }}{% endif %}"
    with pytest.raises(LabError, match="right after the generation prompt"):
        Encoder(tokenizer).completion(CHAT, "yes", finished=True)


@pytest.mark.parametrize("bad", [{"max_length": 4}, {"min_completion": 0}, {"overlong_prompt": "cut"}])
def test_limits_are_checked(bad: dict) -> None:
    with pytest.raises(LabError, match="lengths"):
        Lengths(**bad)


def test_a_control_text_ends_every_prompt_and_changes_no_completion(encoder: Encoder) -> None:
    asking = encoder.with_control("<|good|>")
    chat = [{"role": "user", "content": "hello"}]
    for prompt in ("hello", chat):
        plain, asked = encoder.encode(prompt, "hi"), asking.encode(prompt, "hi")
        assert plain is not None and asked is not None and plain.completion == asked.completion
        decode = encoder.tokenizer.decode
        assert decode(asked.prompt) == decode(plain.prompt) + "<|good|>"
    # The template itself asks, so that whoever loads the saved tokenizer does.
    assert asking.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True).endswith("<|good|>")
    assert asking.ending(chat=True) == encoder.ending(chat=True)
    assert "<|good|>" not in encoder.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("make", [byte_tokenizer, end_as_text, end_not_eos, end_and_more, instructions, ending_each])
def test_an_end_that_the_text_has_already_is_not_written_twice(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    encoder = Encoder(make())
    for chat, prompt in ((True, CHAT), (False, "plain")):
        end = encoder.ending(chat)
        once = encoder.completion(prompt, "yes", finished=True)
        assert once[-len(end.ids) :] == end.ids
        for written in (end.text, end.text + "\n", end.text + encoder.tokenizer.eos_token):
            assert encoder.completion(prompt, "yes" + written, finished=True) == once
            # It says that it ended, whatever else is said.
            assert encoder.completion(prompt, "yes" + written, finished=False) == once
        said = [encoder.completion(prompt, text, finished=False) for text in ("yes ", "yes")]
        assert said[0] != said[1]


@pytest.mark.parametrize("make", [byte_tokenizer, end_not_eos, instructions])
def test_a_special_token_inside_a_completion_is_text(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    encoder = Encoder(make())
    tokenizer = encoder.tokenizer
    for token in tokenizer.all_special_tokens:
        said = f"say {token} to end"
        ids = encoder.completion(CHAT, said, finished=False)
        assert not set(ids) & set(tokenizer.all_special_ids) and tokenizer.decode(ids) == said


def test_what_was_done_to_completions_and_prompts_is_counted(encoder: Encoder) -> None:
    hello = [{"role": "user", "content": "hello"}]
    rows = [
        {"prompt": hello, "completion": "plain", "desirable": True},
        {"prompt": hello, "completion": "ended<|im_end|>", "desirable": True},
        {"prompt": hello, "completion": "a <|im_start|> inside", "desirable": True},
        {"prompt": [{"role": "user", "content": "what is <|im_end|>?"}], "completion": "an end", "desirable": True},
    ]
    found = encoder.encode_table(build_table(rows, source="test", held_out=0))
    assert (found.ended, found.special, found.special_prompts) == (1, 1, 1)


def test_the_text_of_an_end_that_is_no_token_ends_a_completion_wherever_it_is() -> None:
    encoder = Encoder(end_as_text())
    said = encoder.completion(CHAT, "yes<|im_end|>\n<|im_start|>user\nmore", finished=True)
    assert said == encoder.completion(CHAT, "yes", finished=True)


@pytest.mark.parametrize("adds", ["none", "post-processor", "configuration"])
def test_a_prompt_begins_once_and_does_not_end(adds: str, tmp_path: Path) -> None:
    made = {"none": instructions, "post-processor": ending_each, "configuration": partial(told_to_end_each, tmp_path)}
    given = made[adds]()
    assert (given("a")["input_ids"][-1] == 1) == (adds != "none")
    encoder = Encoder(given)
    start, letter = 0, given("a", add_special_tokens=False)["input_ids"][0]
    assert encoder.prompt("a") == (start, letter) == encoder.prompt("<s>a")
    chat = encoder.prompt(CHAT)
    assert chat.count(start) == 1 and chat[0] == start and given.eos_token_id not in chat
    # Whoever loads the saved policy asks likewise.
    encoder.released.save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved("a")["input_ids"] == [start, letter]
    assert given("a")["input_ids"][-1] == (1 if adds != "none" else letter)


def test_ordinary_texts_have_the_ids_that_the_tokenizer_gives_them(encoder: Encoder) -> None:
    for text in (
        "",
        " ",
        "Hello, world!\n",
        "  two  spaces ",
        "a < b | c > d",
        "caf\u00e9 \u2603 \U0001f600",
        "<|im",
        "</s>",
        "<b>",
    ):
        for own in (encoder, Encoder(end_as_text()), Encoder(end_not_eos())):
            plain = tuple(own.tokenizer(text, add_special_tokens=False)["input_ids"])
            assert own.completion(CHAT, text, finished=False) == plain


def test_a_date_in_the_template_is_the_one_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def prompt(today: str, **settings: str) -> tuple[int, ...]:
        class Today(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> "Today":
                return cls.fromisoformat(today)

        monkeypatch.setattr(chat_template_utils, "datetime", Today)
        return Encoder(dated(), **settings).prompt(CHAT)

    one = prompt("2026-01-01")
    assert prompt("2026-01-02") == one
    assert text(dated(), one).startswith("Today is 26 Jul 2024.\n<|im_start|>user\nhi<|im_end|>")
    assert text(dated(), prompt("2026-01-02", template_date="2025-12-24")).startswith("Today is 24 Dec 2025.")
    # The saved policy asks with the day that it is asked on.
    asked = (
        Encoder(dated())
        .with_control("!")
        .released.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    )
    assert asked.startswith("Today is 02 Jan 2026.") and asked.endswith("!")


def test_a_date_that_cannot_be_fixed_is_refused() -> None:
    with pytest.raises(LabError, match=r"template_date is '26 July'; it must be a day such as 2024-07-26"):
        Encoder(dated(), template_date="26 July")
    tokenizer = dated()
    tokenizer.chat_template = "{% set form = '%Y' %}{{ strftime_now(form) }}" + tokenizer.chat_template
    with pytest.raises(LabError, match="cannot be fixed"):
        Encoder(tokenizer)


def test_one_of_several_templates_is_dated_and_controlled_as_a_single_one_is() -> None:
    tokenizer = dated()
    single = Encoder(tokenizer).with_control("!").prompt(CHAT)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ strftime_now('%Y') }}"}
    assert Encoder(tokenizer).with_control("!").prompt(CHAT) == single


def test_hashes_tell_tokenizers_and_templates_apart() -> None:
    one = Encoder(byte_tokenizer())
    before = one.hashes
    one.tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert one.hashes == before == Encoder(byte_tokenizer()).hashes
    other = byte_tokenizer()
    other.chat_template += " "
    assert [Encoder(other).hashes[name] == before[name] for name in ("tokenizer", "chat_template")] == [True, False]
    other = byte_tokenizer()
    other.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    assert [Encoder(other).hashes[name] == before[name] for name in ("tokenizer", "chat_template")] == [False, True]
    assert Encoder(dated()).hashes != Encoder(dated(), template_date="2025-12-24").hashes
