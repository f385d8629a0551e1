"""Tokens: turns, ends, and limits."""

import pytest
from transformers import PreTrainedTokenizerFast

from kto_lab.errors import LabError
from kto_lab.feedback.table import build_table
from kto_lab.models.tiny import byte_tokenizer
from kto_lab.models.tokens import Encoder, Lengths

CHAT = [{"role": "user", "content": "hi"}]


def text(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_chat_prompts_end_with_the_generation_prompt(tokenizer: PreTrainedTokenizerFast, encoder: Encoder) -> None:
    assert text(tokenizer, encoder.prompt(CHAT)) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_finished_completion_ends_its_turn(tokenizer: PreTrainedTokenizerFast, encoder: Encoder) -> None:
    assert text(tokenizer, encoder.completion("yes", chat=True, finished=True)) == "yes<|im_end|>"
    assert text(tokenizer, encoder.completion("yes", chat=True, finished=False)) == "yes"
    assert text(tokenizer, encoder.completion("yes", chat=False, finished=True)) == "yes<|im_end|>"
    assert encoder.stop_ids(chat=True) == [tokenizer.eos_token_id]


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
        Encoder(tokenizer).completion("yes", chat=True, finished=True)


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
    assert asking.stop_ids(chat=True) == encoder.stop_ids(chat=True)
    assert "<|good|>" not in encoder.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
