"""Chat templates of every shape: what is trained, what is sampled from, and what transformers makes of the same."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kto_lab.errors import LabError
from kto_lab.models.adapters import save_policy
from kto_lab.models.chat_template import with_chat_template
from kto_lab.models.generate import generate
from kto_lab.models.logps import score
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.models.tokens import Encoder
from kto_lab.models.turns import RefusedByTemplateError
from tests.chat_shapes import SHAPES, shaped, with_text
from tests.small_tokenizers import made
from tests.taught import taught

ASKED = [{"role": "user", "content": "hi"}]
LONGER = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nyes"},
    {"role": "user", "content": "and you?"},
]
TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {}}}]'
CALLED = (
    '[{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]',
    '[{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}]',
)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_trained_follows_what_is_sampled_from(shape: str) -> None:
    tokenizer, wanted = shaped(shape), SHAPES[shape]
    encoder = Encoder(tokenizer)
    tokens = encoder.encode(ASKED, "yes")
    assert tokens is not None
    asked = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True)["input_ids"]
    assert list(tokens.prompt) == asked and tokenizer.decode(tokens.prompt) == wanted.prompt
    assert tokenizer.decode(tokens.completion) == wanted.turn
    # What is sampled is read as the answer, and what the answer is read as is what was sampled.
    said = encoder.ending(chat=True).split(tokens.completion)
    assert (said.words.strip(), said.finished, said.reasoning) == ("yes", True, "")
    if wanted.thought is not None:
        message = {"role": "assistant", "content": "yes", "reasoning_content": "why"}
        assert tokenizer.decode(encoder.completion(ASKED, message, finished=True)) == wanted.thought


@pytest.mark.parametrize("shape", SHAPES)
def test_log_probs_are_those_of_the_template_and_a_plain_forward_pass(shape: str) -> None:
    tokenizer, wanted = shaped(shape), SHAPES[shape]
    model = random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)
    encoder = Encoder(tokenizer)
    history = [turn for turn in LONGER if wanted.system or turn["role"] != "system"]
    for prompt in (ASKED, history):
        tokens = encoder.encode(prompt, "yes")
        assert tokens is not None
        asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": "yes"}], tokenize=False)
        # Where the whole conversation begins with the prompt it is what is read; else the prompt with the turn is.
        text = whole if whole.startswith(asked) else asked + wanted.turn
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])[:, : len(tokens)]
        logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        begin = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
        # The end of a sequence stands for the end of a turn that the template does not write.
        own = tokens if len(tokens) == ids.shape[1] else encoder.encode(prompt, "yes", finished=False)
        assert own is not None and ids.shape[1] == len(own) and list(own.prompt + own.completion) == ids[0].tolist()
        found = score(model, [own], pad_id=0, token_budget=1000)
        assert torch.allclose(found, logps[begin - 1 :].sum()[None], atol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [
        "empty thinking written into the last turn",
        "thinking begun by the generation prompt and stripped from every turn",
        "channels",
        "instructions with blanks",
        "no end of turn",
    ],
)
def test_a_policy_says_what_it_was_trained_on_and_so_does_the_saved_one(shape: str, tmp_path: Path) -> None:
    tokenizer = shaped(shape)
    encoder = Encoder(tokenizer)
    chats = [[{"role": "user", "content": content}] for content in ("hi", "and you?")]
    said = ["use this", "a longer answer!"]
    lessons = [encoder.encode(chat, text) for chat, text in zip(chats, said, strict=True)]
    model = taught(tokenizer, [(lesson.prompt, lesson.completion) for lesson in lessons if lesson])
    found = [answer for (answer,) in generate(model, encoder, chats, max_new_tokens=80)]
    assert [(answer.text, answer.tokens) for answer in found] == [
        (text, lesson.completion) for text, lesson in zip(said, lessons, strict=True) if lesson
    ]
    assert all(answer.finished for answer in found)
    save_policy(model, encoder.released, tmp_path / "policy", merge=False, ending=encoder.ending(chat=True))
    saved, own = (kind.from_pretrained(tmp_path / "policy") for kind in (AutoModelForCausalLM, AutoTokenizer))
    for chat, answer in zip(chats, found, strict=True):
        asked = own.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        whole = saved.generate(**asked, max_new_tokens=80, do_sample=False, tokenizer=own)
        assert tuple(whole[0, asked["input_ids"].shape[1] :].tolist()) == answer.tokens


@pytest.mark.parametrize("shape", [name for name, one in SHAPES.items() if one.tools])
def test_calls_and_tools_are_written(shape: str) -> None:
    tokenizer = shaped(shape)
    encoder = Encoder(tokenizer)
    prompt = [{"role": "user", "content": "Weather?", "tools": TOOLS}]
    assert "weather" in tokenizer.decode(encoder.prompt(prompt)) and encoder.prompt(prompt) != encoder.prompt(
        [{"role": "user", "content": "Weather?"}]
    )
    said = [
        tokenizer.decode(
            encoder.completion(prompt, {"role": "assistant", "content": "", "tool_calls": call}, finished=True)
        )
        for call in CALLED
    ]
    assert "Oslo" in said[0] and said[1] == said[0].replace("Oslo", "Rome")
    # After the tool has answered.
    after = [
        *prompt,
        {"role": "assistant", "content": "", "tool_calls": CALLED[0], "reasoning_content": "look"},
        {"role": "tool", "content": "rain", "name": "weather"},
    ]
    tokens = encoder.encode(after, "It rains.")
    assert tokens is not None and "It rains." in tokenizer.decode(tokens.completion)


def test_a_template_that_does_not_write_a_call_or_reasoning_is_refused() -> None:
    encoder = Encoder(shaped("turn tokens"))
    message = {"role": "assistant", "content": "", "tool_calls": CALLED[0]}
    with pytest.raises(RefusedByTemplateError, match=r"does not write tool calls \(weather\).*model\.chat_template"):
        encoder.completion(ASKED, message, finished=True)
    with pytest.raises(RefusedByTemplateError, match=r"the reasoning of an answer.*feedback\.ignore"):
        encoder.completion(ASKED, {"role": "assistant", "content": "a", "reasoning_content": "b"}, finished=True)
    with pytest.raises(RefusedByTemplateError, match=r"the tools of a conversation \(weather\)"):
        Encoder(byte_tokenizer()).prompt([{"role": "user", "content": "hi", "tools": TOOLS}])


def test_earlier_turns_that_change_with_the_answer_leave_the_prompt_as_it_is_sampled_from() -> None:
    # The reasoning of a call is left out once there is an answer, as gpt-oss has it.
    template = (
        "{% set last = messages[-1] %}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
        "{% if m.thinking and last.role == 'tool' %}{{ m.thinking }}{% endif %}{{ '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    tokenizer = with_text(template)
    prompt = [
        *ASKED,
        {"role": "assistant", "content": "look", "reasoning_content": "why"},
        {"role": "tool", "content": "rain"},
    ]
    tokens = Encoder(tokenizer).encode(prompt, "It rains.")
    assert tokens is not None
    assert tokenizer.decode(tokens.prompt).endswith("lookwhy<|end|><|tool|>rain<|end|><|assistant|>")
    assert tokenizer.decode(tokens.completion) == "It rains.<|end|>"


@pytest.mark.parametrize(
    ("turn", "counted", "notes"),
    [
        (
            "{{ begin + '<|channel|>' }}{% generation %}{{ said + '<|end|>' }}{% endgeneration %}",
            "yes<|end|>",
            "before",
        ),
        ("{{ begin }}{% generation %}{{ said }}{% endgeneration %}{{ '<|end|>' }}", "yes", "the end of an answer"),
        ("{% generation %}{{ begin + said + '<|end|>\\n' }}{% endgeneration %}", "yes<|end|>", ""),
        ("{% generation %}{{ begin + 'A: ' + said + '<|end|>' }}{% endgeneration %}", "A: yes<|end|>", ""),
    ],
    ids=["header outside", "end outside", "header and line break inside", "lead inside"],
)
def test_the_templates_own_mask_says_what_counts(turn: str, counted: str, notes: str) -> None:
    tokenizer = with_text(
        "{% for m in messages %}{% set begin, said = '<|' + m.role + '|>', m.content %}{% if m.role == 'assistant' %}"
        + turn
        + "{% else %}{{ begin + said + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    encoder, model = Encoder(tokenizer), random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)
    assert any("mask" in note and notes in note for note in encoder.notes(chat=True)) == bool(notes)
    earlier = [*ASKED, {"role": "assistant", "content": "no"}, {"role": "user", "content": "sure?"}]
    for prompt in (ASKED, earlier):
        tokens = encoder.encode(prompt, "yes")
        assert tokens is not None and tokenizer.decode(tokens.completion) == counted
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(
            [*prompt, {"role": "assistant", "content": "yes"}], return_dict=True, return_assistant_tokens_mask=True
        )
        assert [*tokens.prompt, *tokens.completion] == whole["input_ids"][: len(tokens)]
        # What the prompt has said is not the answer's, and after the end of the turn nothing is sampled.
        mask = torch.tensor(whole["assistant_masks"])
        mask[: len(asked)] = 0
        mask[whole["input_ids"].index(tokenizer.convert_tokens_to_ids("<|end|>"), len(asked)) + 1 :] = 0
        ids = torch.tensor([whole["input_ids"]])
        logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        found = score(model, [tokens], pad_id=0, token_budget=1000)
        assert torch.allclose(found, (logps * mask[1:]).sum()[None], atol=1e-4)


def test_a_mask_without_the_answer_is_refused() -> None:
    template = SHAPES["turn tokens"].template + "{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    with pytest.raises(RefusedByTemplateError, match=r"the mask leaves out this answer.*model\.chat_template"):
        Encoder(with_text(template)).completion(ASKED, "yes", finished=True)


def test_a_mask_tells_the_turn_where_the_answer_changes_what_is_before_it() -> None:
    # Each turn has its number, and what a turn says depends on it.
    template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}{% generation %}"
        "{{ loop.index ~ ': ' + m.content + '<|end|>' }}{% endgeneration %}{% else %}{{ m.content + "
        "(' (open)' if loop.last else '') + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    history = [*ASKED, {"role": "assistant", "content": "look"}, {"role": "tool", "content": "rain"}]
    masked = with_text(
        template.replace("(' (open)' if loop.last else '')", "(' (open)' if loop.last and m.role == 'tool' else '')")
    )
    assert masked.decode(Encoder(masked).completion(history, "yes", finished=True)) == "4: yes<|end|>"
    bare = with_text(masked.chat_template.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    with pytest.raises(LabError, match="right after the generation prompt"):
        Encoder(bare).completion(history, "yes", finished=True)


def test_a_template_that_joins_the_arguments_of_a_call_as_text_gets_them_as_text() -> None:
    template = SHAPES["turn tokens"].template.replace(
        "m.content +",
        "m.content + (m.tool_calls[0].function.name + m.tool_calls[0].function.arguments if m.tool_calls else '') +",
        1,
    )
    tokenizer = with_text(template)
    message = {"role": "assistant", "content": "", "tool_calls": CALLED[0]}
    found = Encoder(tokenizer).completion(ASKED, message, finished=True)
    assert tokenizer.decode(found) == 'weather{"city": "Oslo"}<|end|>'


def test_reasoning_as_it_was_sampled_is_trained_as_it_was_sampled() -> None:
    for shape in (
        "thinking begun by the generation prompt",
        *[name for name in SHAPES if "stripped from every" in name],
    ):
        tokenizer = shaped(shape)
        found = Encoder(tokenizer).completion(ASKED, "why\n</think>\n\nyes", finished=True)
        assert tokenizer.decode(found) == "why\n</think>\n\nyes<|end|>"


def test_a_template_without_a_reading_is_refused_by_name() -> None:
    for template in (
        "{% if add_generation_prompt %}ask{% else %}{{ messages[-1].content }}{% endif %}",
        "{{ messages[0].content }}{% if add_generation_prompt %}{{ '<|assistant|>Sure! ' }}{% endif %}"
        "{% if messages[1] %}{{ '<|assistant|>' + messages[1].content }}{% endif %}",
    ):
        with pytest.raises(LabError, match=r"The chat template of .* right after.*model\.chat_template.*arguments"):
            Encoder(with_text(template)).completion(ASKED, "yes", finished=True)


def test_a_token_that_would_span_prompt_and_answer_leaves_the_prompt_alone() -> None:
    template = SHAPES["thinking begun by the generation prompt"].template
    tokenizer = made(["</s>", "<|end|>", "<|pad|>"], template, eos="</s>", merges=[("Ċ", "Ċ")])
    tokens = Encoder(tokenizer).encode(ASKED, "yes")
    assert tokens is not None
    assert list(tokens.prompt) == tokenizer.apply_chat_template(ASKED, add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(tokens.completion).startswith("\n</think>\n\nyes")


def test_a_template_and_its_arguments_are_the_tokenizers_own() -> None:
    template = "{% if think is defined and think %}{{ 'deep ' + level }}{% endif %}" + SHAPES["turn tokens"].template
    given = with_text(template)
    own = with_chat_template(given, None, {"think": True, "level": 'so "☃" %} 😀'})
    asked = own.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    assert asked == 'deep so "☃" %} 😀' + SHAPES["turn tokens"].prompt
    assert own.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True, think=False) == (
        SHAPES["turn tokens"].prompt
    )
    assert Encoder(own).hashes != Encoder(given).hashes
    assert given.chat_template == template
    assert Encoder(own).completion(ASKED, "yes", finished=True) == Encoder(given).completion(
        ASKED, "yes", finished=True
    )


def test_a_chat_template_is_given_by_name_by_file_or_as_text(tmp_path: Path) -> None:
    base = with_text("")
    base.chat_template = None
    file = tmp_path / "own.jinja"
    file.write_text(SHAPES["turn tokens"].template, encoding="utf-8")
    by_file, by_text = (
        with_chat_template(base, given, None).chat_template for given in (str(file), file.read_text(encoding="utf-8"))
    )
    assert by_file == by_text == SHAPES["turn tokens"].template and base.chat_template is None
    for name in ("chatml", "plain"):
        tokens = Encoder(with_chat_template(base, name, None)).encode(ASKED, "yes")
        assert tokens is not None and "yes" in base.decode(tokens.completion)
    for template, arguments, match in (
        ("nowhere.jinja", None, "neither the name of a template"),
        ("{% if %}", None, "not valid Jinja"),
        (None, {"think": True}, "there is none"),
        ("chatml", {"thinking": True}, "reads no such argument"),
        ("chatml", {"messages": []}, "no argument"),
    ):
        with pytest.raises(LabError, match=match):
            with_chat_template(base, template, arguments)
