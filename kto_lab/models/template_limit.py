"""A chat template is a program that comes with a model: it is rendered under a limit of time.

transformers renders it in jinja's sandbox, which keeps it from the machine, and lets it run for ever.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import TYPE_CHECKING

from kto_lab.errors import LabError
from kto_lab.models.tokenizer import templates

# transformers takes seconds to import, and a mistyped key should show before.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For one conversation; a template takes about a millisecond.
SECONDS = 10.0
# Where a tokenizer has its own limit. Copies of it have it, and what is saved of it has not.
_OWN = "template_seconds"


def set_limit(tokenizer: "PreTrainedTokenizerBase", seconds: float) -> "PreTrainedTokenizerBase":
    """The tokenizer, with its own limit for its chat template, in place.

    Raises:
        LabError: the limit is not above 0.
    """
    if not seconds > 0:
        raise LabError(f"model.template_seconds is {seconds!r}; it must be above 0.")
    setattr(tokenizer, _OWN, float(seconds))
    return tokenizer


@contextmanager
def within_limit(tokenizer: "PreTrainedTokenizerBase") -> Iterator[None]:
    """A block in which a tokenizer's chat template is rendered, once.

    The limit holds in a process's main thread, where signals arrive.

    Raises:
        LabError: it takes too long, or has powers of numbers, one of which can take for ever.
    """
    seconds, name = getattr(tokenizer, _OWN, SECONDS), tokenizer.name_or_path or "this model"
    if any(map(_has_power, templates(tokenizer))):
        raise LabError(
            f"The chat template of {name} computes a power (**), which may take for ever and could not be stopped. No "
            "chat template needs one; write the number into it."
        )
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: FrameType | None) -> None:
        raise LabError(
            f"The chat template of {name} was not done with one conversation after {seconds:g} s, and may never be. "
            "Mend the template; where it is only slow, raise model.template_seconds of model=hf."
        )

    handler = signal.signal(signal.SIGALRM, end)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


@lru_cache(maxsize=64)
def _has_power(template: str) -> bool:
    """Whether a template computes a power: a single step of it, which no signal interrupts."""
    from jinja2 import Environment, TemplateSyntaxError

    before = ""
    try:
        for _, kind, value in Environment().lex(template):
            # Behind these it hands on named arguments.
            if kind == "operator" and value == "**" and before not in ("(", ","):
                return True
            before = before if kind == "whitespace" else value
    except TemplateSyntaxError:
        # Rendering says where.
        pass
    return False
