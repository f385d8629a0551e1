"""A chat template that would never end is stopped, and a slow one may be given more time."""

import copy
import signal
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.errors import LabError
from kto_lab.judging.answer import Answer
from kto_lab.judging.reward import encode
from kto_lab.models.load import hf
from kto_lab.models.template_limit import set_limit, within_limit
from kto_lab.models.tokens import Encoder

ENDLESS = 3 * "{% for _ in range(99999) %}" + 3 * "{% endfor %}"
TURN = [{"role": "user", "content": "1+1="}]


def rendered(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> object:
    with within_limit(tokenizer):
        return tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.fixture
def endless(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    own = copy.deepcopy(tokenizer)
    own.chat_template = ENDLESS
    return set_limit(own, 0.05)  # type: ignore[return-value]


def test_it_is_stopped_wherever_it_is_rendered(endless: PreTrainedTokenizerFast) -> None:
    usual = signal.getsignal(signal.SIGALRM)
    with pytest.raises(LabError, match=r"not done with one conversation after 0\.05 s.*model\.template_seconds"):
        rendered(endless, TURN)
    with pytest.raises(LabError, match="not done with one conversation"):
        # The encoder has a copy of the tokenizer, with another template.
        Encoder(endless, control="!").prompt(TURN)
    with pytest.raises(LabError, match="not done with one conversation"):
        encode(endless, Answer(prompt=TURN, completion="2", where="here"), chat=True)
    assert signal.getsignal(signal.SIGALRM) is usual and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_limit_is_a_key_of_the_model(
    model: LlamaForCausalLM, endless: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    endless.save_pretrained(tmp_path)
    loaded = hf(str(tmp_path), dtype="float32", attention="sdpa", template_seconds=0.07)
    with pytest.raises(LabError, match=r"after 0\.07 s"):
        Encoder.of(loaded).prompt(TURN)
    with pytest.raises(LabError, match=r"model\.template_seconds is 0"):
        hf(str(tmp_path), dtype="float32", attention="sdpa", template_seconds=0)


def test_what_no_signal_interrupts_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    own = copy.deepcopy(tokenizer)
    power = "{{ 10 ** 10 ** 10 }}"
    for template in (power, {"default": power, "tool_use": "{{ messages[0].content }}"}):
        own.chat_template = template
        with pytest.raises(LabError, match="computes a power"):
            rendered(own, TURN)
    own.chat_template = "**bold** {{ '**' }} {{ dict(**{'a': 'b'}) }} {{ messages[0].content }}"
    assert rendered(own, TURN) == "**bold** ** {'a': 'b'} 1+1="
