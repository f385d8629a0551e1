"""Which chat template writes a model's conversations, and with which arguments.

Both become part of the tokenizer's own template, so that training, sampling, lm-eval and a model that judges ask alike,
and so does whoever loads the saved policy, without knowing of the arguments.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_lab.errors import LabError
from kto_lab.models.tokenizer import literal, templates, with_template

# transformers takes seconds to import, and a mistyped key should show before.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# For base models, which know no token that marks a turn.
PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
    "{% else %}{{ message['role'] | capitalize + ': ' + message['content'] }}{% endif %}{{ '\n\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SHIPPED = {"chatml": CHATML, "plain": PLAIN}
# What transformers itself gives to a template.
_GIVEN = frozenset(("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"))
_NAME = re.compile(r"[A-Za-z_]\w*")


def with_chat_template(
    tokenizer: "PreTrainedTokenizerBase",
    chat_template: str | None,
    arguments: Mapping[str, Any] | None,
    *,
    node: str = "model",
) -> "PreTrainedTokenizerBase":
    """The tokenizer, or a copy that writes conversations with another template, or with arguments to it.

    Args:
        tokenizer: the model's.
        chat_template: the name of one in `SHIPPED`, the path of a file, or the text of a template; None for the model's
            own.
        arguments: variables of the template, such as {"enable_thinking": False}. Whoever asks for another value of one
            gets it.
        node: whose `chat_template` and `template_arguments` these are, for messages.

    Raises:
        LabError: there is no such template or file, it is not valid Jinja, or it reads no such argument.
    """
    own = tokenizer
    if chat_template is not None:
        own = copy.deepcopy(tokenizer)
        own.chat_template = _text(str(chat_template), node)
    if arguments:
        texts = templates(own)
        if not texts:
            raise LabError(
                f"{node}.template_arguments is for a chat template, and there is none. Set {node}.chat_template."
            )
        begin = "".join(_assigned(name, value, "\n".join(texts), node) for name, value in arguments.items())
        # transformers strips the line break after a block.
        own = with_template(own, lambda template: f"{begin}\n{template}")
    if own is not tokenizer:
        _check(own, node)
    return own


def _text(given: str, node: str) -> str:
    if given in SHIPPED:
        return SHIPPED[given]
    if "{{" in given or "{%" in given:
        return given
    path = Path(given).expanduser()
    if not path.is_file():
        raise LabError(
            f"{node}.chat_template is {given!r:.100}, which is neither the name of a template ({', '.join(SHIPPED)}), "
            "nor a file, nor the text of a Jinja template."
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{node}.chat_template: {path} cannot be read as text: {error}.") from error


def _assigned(name: str, value: Any, template: str, node: str) -> str:
    if not _NAME.fullmatch(str(name)) or name in _GIVEN:
        raise LabError(f"{node}.template_arguments sets {name!r}, which is no argument of a chat template.")
    if not re.search(rf"\b{name}\b", template):
        raise LabError(
            f"{node}.template_arguments sets {name!r}, and the chat template reads no such argument. Check its name in "
            f"the template, or set {node}.chat_template to one that reads it."
        )
    return f"{{% if {name} is not defined %}}{{% set {name} = {literal(value)} %}}{{% endif %}}"


def _check(tokenizer: "PreTrainedTokenizerBase", node: str) -> None:
    """Refuse a template that is not valid Jinja."""
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    for text in templates(tokenizer):
        try:
            _compile_jinja_template(text)
        except TemplateSyntaxError as error:
            raise LabError(f"{node}.chat_template is not valid Jinja: line {error.lineno}: {error.message}.") from error
