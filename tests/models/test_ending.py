"""The end of a completion: the same for training, sampling and the saved policy."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from kto_lab.errors import LabError
from kto_lab.models.adapters import save_policy
from kto_lab.models.ending import Sampled
from kto_lab.models.generate import Answer, generate
from kto_lab.models.tiny import CHATML, byte_tokenizer
from kto_lab.models.tokens import Encoder
from tests.small_tokenizers import END, end_and_more, end_as_text, end_not_eos, instructions, made
from tests.taught import taught

CHATS = [[{"role": "user", "content": content}] for content in ("hi", "and you?")]
SAID = ["use <b>", "a longer answer!"]
MANNERS = [byte_tokenizer, end_as_text, end_not_eos, end_and_more, instructions]


@pytest.mark.parametrize(
    ("make", "ids", "text", "stops", "stop_text"),
    [
        (byte_tokenizer, 1, END, [END], None),
        (end_as_text, len(END), END, ["<|endoftext|>"], END),
        (end_not_eos, 1, END, ["<|endoftext|>", END], None),
        (end_and_more, 1, END, ["<|endoftext|>", END], None),
        (instructions, 2, " </s>", ["</s>"], None),
    ],
)
def test_it_is_what_the_template_writes_up_to_the_first_control_token(
    make: Callable[[], PreTrainedTokenizerFast], ids: int, text: str, stops: list[str], stop_text: str | None
) -> None:
    tokenizer = make()
    ending = Encoder(tokenizer).ending(chat=True)
    assert (len(ending.ids), ending.text, ending.stop_text) == (ids, text, stop_text)
    assert [tokenizer.convert_ids_to_tokens(token) for token in ending.stop_ids] == stops
    assert tokenizer.decode(ending.ids) == text


@pytest.mark.parametrize("make", MANNERS)
def test_what_is_trained_is_where_sampling_and_the_saved_policy_stop(
    make: Callable[[], PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    tokenizer = make()
    encoder = Encoder(tokenizer)
    lessons = [
        (encoder.prompt(chat), encoder.completion(chat, text, finished=True))
        for chat, text in zip(CHATS, SAID, strict=True)
    ]
    more = tuple(tokenizer("\nand on and on", add_special_tokens=False)["input_ids"])
    model = taught(tokenizer, [(prompt, answer + more) for prompt, answer in lessons])
    wanted = [
        Answer(text, answer, True, len(tokenizer(text, add_special_tokens=False)["input_ids"]))
        for text, (_, answer) in zip(SAID, lessons, strict=True)
    ]
    found = generate(model, encoder, CHATS, max_new_tokens=40)
    assert [answer for (answer,) in found] == wanted

    save_policy(model, encoder.released, tmp_path / "policy", merge=False, ending=encoder.ending(chat=True))
    saved, own = (kind.from_pretrained(tmp_path / "policy") for kind in (AutoModelForCausalLM, AutoTokenizer))
    for chat, answer in zip(CHATS, wanted, strict=True):
        asked = own.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        whole = saved.generate(**asked, max_new_tokens=40, do_sample=False, tokenizer=own)
        assert tuple(whole[0, asked["input_ids"].shape[1] :].tolist()) == answer.tokens


def test_an_end_in_text_is_found_however_it_is_cut_into_tokens() -> None:
    encoder = Encoder(end_as_text())
    ending = encoder.ending(chat=True)
    ids = encoder.tokenizer("yes!" + END)["input_ids"]
    assert tuple(ids[-len(END) :]) != ending.ids
    assert [ending.reached(ids[:length]) for length in range(1, len(ids) + 1)] == [False] * (len(ids) - 1) + [True]
    assert ending.split(ids) == Sampled("yes!", 3, True)
    assert ending.split(ids[:-1]) == Sampled("yes!" + END[:-1], len(ids) - 1, False)
    assert ending.split([]) == Sampled("", 0, False)


def test_what_the_models_own_settings_name_as_an_end_is_one_if_it_is_a_control_token() -> None:
    tokenizer = end_not_eos()
    letter, pad = tokenizer.convert_tokens_to_ids(["a", "<|pad|>"])
    assert Encoder(tokenizer, ends=[letter, pad]).ending(chat=True).stop_ids == (0, 2, pad)
    assert Encoder(tokenizer, ends=[pad]).with_control("!").ending(chat=False).stop_ids == (0, pad)


def test_an_end_that_the_tokenizer_cannot_write_is_refused() -> None:
    tokenizer = made(["<s>", "<pad>"], CHATML.replace(END, "\u2603"), eos="<s>")
    assert len(Encoder(tokenizer).ending(chat=True).ids) == 3
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u2603", "")
    with pytest.raises(LabError, match="the tokenizer reads that back as"):
        Encoder(tokenizer).ending(chat=True)


def test_plain_text_ends_with_the_sequence(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(instructions())
    assert encoder.ending(chat=False).ids == (1,) == encoder.ending(chat=False).stop_ids
    without = copy.deepcopy(tokenizer)
    without.eos_token = None
    with pytest.raises(LabError, match="no end-of-sequence token"):
        Encoder(without).ending(chat=False)
    assert len(Encoder(without).completion("plain", "a", finished=False)) == 1
