"""What a judge gets: an answer to a prompt, and what is known about it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kto_lab.feedback.table import prompt_id
from kto_lab.feedback.whole import as_text
from kto_lab.models.tokens import Completion, Prompt


@dataclass(frozen=True)
class Answer:
    """An answer to be judged.

    Attributes:
        prompt: text, or chat messages.
        completion: the answer as text, calls and reasoning included.
        where: its place in the source, for messages.
        thumb: the thumb that it already has, or None.
        truth: the thumb before any noise, which labels are compared with, or None.
        more: further columns of its row for `build_table`: `message`, `finished`, `checks`, `group`, `split`, ...
    """

    prompt: Prompt
    completion: str
    where: str
    thumb: bool | None = None
    truth: bool | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> Completion:
        """The answer as the table of examples takes it: a message where it is more than text."""
        message = self.more.get("message")
        return self.completion if message is None else json.loads(message)

    @property
    def words(self) -> str:
        """The answer as text, without its reasoning: what a person would judge."""
        said = self.said
        return said if isinstance(said, str) else as_text({**said, "reasoning_content": None})

    @property
    def prompt_id(self) -> str:
        """The identity of the prompt: what folds and intervals go by."""
        return prompt_id(self.prompt)

    @property
    def prompt_text(self) -> str:
        """The prompt as text; of chat messages, each turn on a line of its own, with who speaks."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) == 1:
            return as_text(self.prompt[0])
        return "\n".join(f"{message['role'].capitalize()}: {as_text(message)}" for message in self.prompt)
