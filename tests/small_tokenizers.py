"""Tokenizers of every manner for the tests: one token a byte, and special tokens and templates as real models have."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kto_lab.models.tiny import CHATML

START, END = "<|im_start|>", "<|im_end|>"
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] + ' ' + "
    "eos_token }}{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)


def made(
    specials: Sequence[str],
    template: str,
    *,
    eos: str,
    bos: str | None = None,
    adds: str = "$A",
    merges: Sequence[tuple[str, str]] = (),
) -> PreTrainedTokenizerFast:
    """A tokenizer over bytes.

    Args:
        specials: its special tokens, with ids from 0 on.
        template: its chat template.
        eos: the end of a sequence.
        bos: the beginning of one.
        adds: what it makes of a text, which is $A.
        merges: pairs of bytes that are one token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*specials, *alphabet, *(a + b for a, b in merges)]
    core = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    own = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=eos,
        bos_token=bos,
        pad_token=specials[-1],
        additional_special_tokens=[word for word in specials if word not in (eos, bos)],
        clean_up_tokenization_spaces=False,
    )
    names = [(word, number) for number, word in enumerate(specials) if word in adds]
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=names)
    own.chat_template = template
    return own


def end_as_text() -> PreTrainedTokenizerFast:
    """ChatML whose turns end in no token, and another end of sequence; "!<" is one token."""
    return made(["<|endoftext|>", "<|pad|>"], CHATML, eos="<|endoftext|>", merges=[("!", "<")])


def end_not_eos() -> PreTrainedTokenizerFast:
    """ChatML whose end of turn is a token, and not the end of a sequence, as of base models."""
    return made(["<|endoftext|>", START, END, "<|pad|>"], CHATML, eos="<|endoftext|>")


def end_and_more() -> PreTrainedTokenizerFast:
    """ChatML that goes on after the end of a turn: a line break, and the end of the sequence."""
    template = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    return made(["<|endoftext|>", START, END, "<|pad|>"], template, eos="<|endoftext|>")


def instructions() -> PreTrainedTokenizerFast:
    """A template that writes the beginning of the sequence, and a tokenizer that adds it, too."""
    return made(["<s>", "</s>", "<pad>"], INST, eos="</s>", bos="<s>", adds="<s> $A")


def ending_each() -> PreTrainedTokenizerFast:
    """A tokenizer that ends each text by itself."""
    return made(["<s>", "</s>", "<pad>"], INST, eos="</s>", bos="<s>", adds="<s> $A </s>")


def told_to_end_each(folder: Path) -> PreTrainedTokenizerFast:
    """The same by the key of its configuration."""
    own = instructions()
    own.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, add_bos_token=True, add_eos_token=True)


def dated() -> PreTrainedTokenizerFast:
    """ChatML with a date in the manner of Llama 3.2."""
    day = "{% if strftime_now is defined %}{{ 'Today is ' + strftime_now('%d %b %Y') + '.\\n' }}{% endif %}"
    return made([END, START, "<|pad|>"], day + CHATML, eos=END)
