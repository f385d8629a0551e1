"""Chat templates of every shape that current models have, each as small as the shape allows, over one token a byte.

A shape is how a template writes the assistant's turn, and its generation prompt.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from tests.small_tokenizers import made

_USER_AND_BOT = "{{ '<|' + m.role + '|>' + (m.content or '') }}"
_THINK = (
    "{% set said = m.content or '' %}{% set thought = m.reasoning_content or '' %}"
    "{% if '</think>' in said %}{% set thought = said.split('</think>')[0].split('<think>')[-1] | trim('\\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
)
_CALLS = (
    "{% for call in m.tool_calls or [] %}{{ '<call>' + call.function.name + ' ' + call.function.arguments | tojson + "
    "'</call>' }}{% endfor %}"
)
_TOOLS = "{% if tools %}{{ '<|system|>' + tools | tojson + '<|end|>' }}{% endif %}"


@dataclass(frozen=True)
class Shaped:
    """A chat template.

    Attributes:
        template: Jinja.
        families: the models that have the shape.
        prompt: what it makes of the conversation [user "hi"] for sampling.
        turn: what is to be trained after it where the answer is "yes".
        thought: the same where the answer has the reasoning "why"; None where the template has no place for it.
        system: it takes a system turn.
        tools: it writes tools and calls.
    """

    template: str
    families: str
    prompt: str
    turn: str
    thought: str | None = None
    system: bool = True
    tools: bool = False


def _turns(assistant: str, others: str = "{{ '<|' + m.role + '|>' + (m.content or '') + '<|end|>' }}") -> str:
    return (
        _TOOLS
        + "{% for m in messages %}{% if m.role == 'assistant' %}"
        + assistant
        + "{% else %}"
        + others
        + "{% endif %}{% endfor %}"
    )


def _mark(text: str) -> str:
    return "{% if add_generation_prompt %}{{ '" + text + "' }}{% endif %}"


# Thinking is kept in the last turn alone.
_LAST_THINKS = (
    _THINK
    + "{{ '<|assistant|>' }}{% if loop.last %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}{{ said }}"
    + _CALLS
    + "{{ '<|end|>\\n' }}"
)

SHAPES = {
    "turn tokens": Shaped(
        _turns("{{ '<|assistant|>' + m.content + '<|end|>\\n' }}") + _mark("<|assistant|>"),
        "ChatML: SmolLM2, Qwen2.5, Yi",
        "<|user|>hi<|end|><|assistant|>",
        "yes<|end|>",
    ),
    "empty thinking written into the last turn": Shaped(
        _turns(_LAST_THINKS) + _mark("<|assistant|>"),
        "Qwen3",
        "<|user|>hi<|end|><|assistant|>",
        "<think>\n\n</think>\n\nyes<|end|>",
        "<think>\nwhy\n</think>\n\nyes<|end|>",
        tools=True,
    ),
    "thinking begun by the generation prompt": Shaped(
        _turns(_LAST_THINKS) + _mark("<|assistant|><think>\\n"),
        "Qwen3.5, Qwen3.6 thinking",
        "<|user|>hi<|end|><|assistant|><think>\n",
        "\n</think>\n\nyes<|end|>",
        "why\n</think>\n\nyes<|end|>",
        tools=True,
    ),
    "thinking ended by the generation prompt": Shaped(
        _turns(_LAST_THINKS) + _mark("<|assistant|><think>\\n\\n</think>\\n\\n"),
        "Qwen3 and Qwen3.5 with enable_thinking=false",
        "<|user|>hi<|end|><|assistant|><think>\n\n</think>\n\n",
        "yes<|end|>",
        tools=True,
    ),
    "thinking begun by the generation prompt and stripped from every turn": Shaped(
        _turns(_THINK + "{{ '<|assistant|>' + said + '<|end|>' }}") + _mark("<|assistant|><think>\\n"),
        "DeepSeek-V3, DeepSeek-R1 distilled",
        "<|user|>hi<|end|><|assistant|><think>\n",
        "\n</think>\n\nyes<|end|>",
        "why\n</think>\n\nyes<|end|>",
    ),
    "empty thinking without the line break of the generation prompt": Shaped(
        _turns(
            _THINK
            + "{{ '<|assistant|>' + ('<think>\\n' + thought + '\\n</think>\\n' if thought else '<think></think>') }}"
            + "{{ said | trim + '<|end|>\\n' }}"
        )
        + _mark("<|assistant|><think>\\n"),
        "Nemotron-3",
        "<|user|>hi<|end|><|assistant|><think>\n",
        "</think>yes<|end|>",
        "why\n</think>\nyes<|end|>",
    ),
    "empty thinking of the generation prompt that no turn has": Shaped(
        _turns(_THINK + "{{ '<|assistant|>' + said + '<|end|>' }}") + _mark("<|assistant|><think></think>"),
        "Nemotron-3 without thinking in its history",
        "<|user|>hi<|end|><|assistant|><think></think>",
        "yes<|end|>",
    ),
    "no end of turn": Shaped(
        _turns(_THINK + "{{ '<|assistant|>\\n<think>' + thought + '</think>\\n' + said }}", _USER_AND_BOT)
        + _mark("<|assistant|>"),
        "GLM-4-MoE",
        "<|user|>hi<|assistant|>",
        "\n<think></think>\nyes</s>",
        "\n<think>why</think>\nyes</s>",
    ),
    "channels": Shaped(
        _turns(
            "{% if m.tool_calls %}{% set call = m.tool_calls[0].function %}"
            "{% if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}"
            "{% endif %}{{ '<|start|>assistant to=' + call.name + '<|channel|>commentary<|message|>' }}"
            "{{ call.arguments | tojson + '<|call|>' }}{% else %}"
            "{% if loop.last and m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + "
            "'<|end|>' }}{% endif %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + "
            "('<|return|>' if loop.last and not add_generation_prompt else '<|end|>') }}{% endif %}",
            "{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}",
        )
        + _mark("<|start|>assistant"),
        "gpt-oss (harmony)",
        "<|start|>user<|message|>hi<|end|><|start|>assistant",
        "<|channel|>final<|message|>yes<|return|>",
        "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>",
        tools=True,
    ),
    "instructions with blanks": Shaped(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ ' ' + m.content | trim + ' ' + eos_token }}"
        "{% else %}{{ '[INST] ' + m.content | trim + ' [/INST]' }}{% endif %}{% endfor %}",
        "Llama-2, Mistral-Instruct",
        "<s>[INST] hi [/INST]",
        " yes </s>",
    ),
    "a blank at the end of the generation prompt": Shaped(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}"
        "{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}" + _mark(" "),
        "Mistral-Instruct as converted by others",
        "<s>[INST] hi [/INST] ",
        "yes</s>",
    ),
    "names with colons": Shaped(
        "{{ bos_token }}{% for m in messages %}{{ m.role | upper + ': ' + m.content }}"
        "{{ eos_token if m.role == 'assistant' else ' ' }}{% endfor %}" + _mark("ASSISTANT:"),
        "Vicuna",
        "<s>USER: hi ASSISTANT:",
        " yes</s>",
    ),
    "names with colons and an end of turn": Shaped(
        "{{ bos_token }}{% for m in messages %}"
        "{{ 'GPT4 Correct ' + m.role | capitalize + ': ' + m.content + '<|end|>' }}{% endfor %}"
        + _mark("GPT4 Correct Assistant:"),
        "OpenChat",
        "<s>GPT4 Correct User: hi<|end|>GPT4 Correct Assistant:",
        " yes<|end|>",
    ),
    "names with colons and blank lines": Shaped(
        "{% for m in messages %}{{ m.role | capitalize + ': ' + m.content }}"
        "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}" + _mark("\\n\\nAssistant:"),
        "Falcon-instruct",
        "User: hi\n\nAssistant:",
        " yes</s>",
    ),
    "turns that alternate": Shaped(
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{{ '<|' + ('model' if m.role == 'assistant' else m.role) + '|>' + m.content | trim + '<|end|>\\n' }}"
        "{% endfor %}" + _mark("<|model|>"),
        "Gemma",
        "<s><|user|>hi<|end|>\n<|model|>",
        "yes<|end|>",
        system=False,
    ),
    "system turn in the first user turn": Shaped(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set told = messages[0].content + '\\n\\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set told = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{{ '<|' + m.role + '|>' + (told if loop.first else '') + m.content | trim + '<|end|>' }}"
        "{% endfor %}" + _mark("<|assistant|>"),
        "Gemma 3, Llama-2 with a system turn",
        "<s><|user|>hi<|end|><|assistant|>",
        "yes<|end|>",
    ),
    "a mask of what the assistant says": Shaped(
        _turns(
            "{{ '<|assistant|>' }}{% generation %}" + _THINK + "{{ said + '<|end|>' }}{% endgeneration %}{{ '\\n' }}",
        )
        + _mark("<|assistant|><think>\\n\\n</think>\\n\\n"),
        "templates made for training, such as TRL's",
        "<|user|>hi<|end|><|assistant|><think>\n\n</think>\n\n",
        "yes<|end|>",
    ),
}
SPECIALS = (
    "<s>",
    "</s>",
    *(f"<|{name}|>" for name in ("user", "assistant", "system", "tool", "model", "end", "start", "channel")),
    *(f"<|{name}|>" for name in ("message", "call", "return", "pad")),
)


def shaped(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the chat template of a shape."""
    return with_text(SHAPES[name].template)


def with_text(template: str) -> PreTrainedTokenizerFast:
    """The same tokenizer with any template."""
    return made(SPECIALS, template, eos="</s>", bos="<s>", adds="<s> $A")
