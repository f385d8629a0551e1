"""What is asked of a tokenizer: what it adds to a text by itself, what its chat template writes, and what it is."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from kto_lab.errors import LabError

# transformers takes seconds to import, and a mistyped key should show before.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a chat template gets that asks for the date. Any day would do, as long as it stays.
TEMPLATE_DATE = "2024-07-26"
_ASKS_FOR_DATE = re.compile(r"""\bstrftime_now\s*\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")
_CALLS = re.compile(r"\bstrftime_now\s*\(")
_WORD = "a"


def added(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text by itself."""
    bare, whole = ([*tokenizer(_WORD, add_special_tokens=adds)["input_ids"]] for adds in (False, True))
    for place in range(len(whole) - len(bare) + 1):
        if whole[place : place + len(bare)] == bare:
            return whole[:place], whole[place + len(bare) :]
    return [], []


def ending_nothing(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """The tokenizer, or where it ends each text with a special token by itself, a copy that does not.

    Raises:
        LabError: it cannot be kept from it.
    """
    before, after = added(tokenizer)
    if not after:
        return tokenizer
    own = copy.deepcopy(tokenizer)
    if (core := getattr(own, "backend_tokenizer", None)) is not None:
        from tokenizers.processors import TemplateProcessing

        names = own.convert_ids_to_tokens(before)
        core.post_processor = TemplateProcessing(
            single=[*names, "$A"],
            pair=[*names, "$A", *(f"{name}:1" for name in names), "$B:1"],
            special_tokens=list(zip(names, before, strict=True)),
        )
        # A loaded tokenizer that has these makes its post-processor anew.
        for flag in ("add_bos_token", "add_eos_token"):
            own.init_kwargs.pop(flag, None)
    if added(own) != (before, []):
        raise LabError(
            "The tokenizer ends each text with a special token by itself, so a prompt would end before its answer. "
            "Set add_eos_token to false in the tokenizer_config.json of the model."
        )
    return own


def templates(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The texts of its chat template, or of each that it has under a name; none where it has no template."""
    own = tokenizer.chat_template
    return list(own.values()) if isinstance(own, dict) else [own] if own else []


def with_template(tokenizer: "PreTrainedTokenizerBase", change: Callable[[str], str]) -> "PreTrainedTokenizerBase":
    """The tokenizer, or where the change makes another of its chat template (or templates), a copy with that."""
    old = tokenizer.chat_template
    if not old:
        return tokenizer
    new = {name: change(text) for name, text in old.items()} if isinstance(old, dict) else change(old)
    if new == old:
        return tokenizer
    own = copy.deepcopy(tokenizer)
    own.chat_template = new
    return own


def literal(value: Any) -> str:
    """A plain value as Jinja writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(str(key))}: {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def check_date(day: str) -> date:
    """A day such as "2024-07-26"; LabError where it is none."""
    try:
        return date.fromisoformat(day)
    except ValueError as error:
        raise LabError(f"template_date is {day!r}; it must be a day such as {TEMPLATE_DATE}.") from error


def dated(tokenizer: "PreTrainedTokenizerBase", day: str) -> "PreTrainedTokenizerBase":
    """The tokenizer, or where its chat template asks for the date, a copy that writes one day, whenever it is used.

    Args:
        tokenizer: with or without a template.
        day: such as "2024-07-26".

    Raises:
        LabError: that is no day, or the template asks in a way that cannot be answered beforehand.
    """
    when = check_date(day)

    def change(template: str) -> str:
        text = _ASKS_FOR_DATE.sub(lambda call: json.dumps(when.strftime(call[1] or call[2] or "")), template)
        if _CALLS.search(text):
            raise LabError(
                "The chat template calls strftime_now with something other than a format in quotes, so the date that "
                "it writes cannot be fixed, and prompts would change from day to day. Write the format, or a date, "
                "into the template of the model's folder."
            )
        return text

    return with_template(tokenizer, change)


def controlled(tokenizer: "PreTrainedTokenizerBase", control: str) -> "PreTrainedTokenizerBase":
    """The tokenizer, or a copy whose chat template ends its generation prompt with a control text, if there is one."""
    write = "{% if add_generation_prompt %}{{ " + literal(control) + " }}{% endif %}"
    return with_template(tokenizer, lambda template: template + write if control else template)


def hashes(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """What decides the ids of a prompt: the tokenizer with its special tokens, and its chat template, as hashes."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    about = json.loads(core.to_str()) if core is not None else {"vocabulary": tokenizer.get_vocab()}
    # What the last call asked for, and no part of the tokenizer.
    about |= {"truncation": None, "padding": None, "special": tokenizer.special_tokens_map}
    return {"tokenizer": _hash(about), "chat_template": _hash(tokenizer.chat_template)}


def _hash(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
