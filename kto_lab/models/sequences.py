"""Token sequences: a prompt with a completion, and the units that a loss looks at together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from kto_lab.models.turns import Message


@dataclass(frozen=True)
class Tokens:
    """One prompt and one completion as token ids."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt) + len(self.completion)


@dataclass
class Encoded:
    """A tokenised table: one entry per kept example, and what happened to the rest.

    Attributes:
        tokens: one entry per kept example.
        kept: their rows.
        dropped: examples left out because their prompt is too long.
        refused: examples left out because the chat template refuses them.
        cut: kept examples whose completion was cut to fit.
        ended: kept examples whose completion had the text of its end, which is not written twice.
        special: kept examples whose completion has the text of a special token inside, which is read as text.
        special_prompts: kept examples whose chat prompt has the text of a special token, which is read as that token.
    """

    tokens: list[Tokens]
    kept: list[int]
    dropped: int = 0
    refused: int = 0
    cut: int = 0
    ended: int = 0
    special: int = 0
    special_prompts: int = 0


# One completion, or the two of a pair, after the same prompt.
Unit: TypeAlias = Sequence[Tokens]


def completion_lengths(sequences: Sequence[Tokens]) -> np.ndarray:
    """(N,) tokens of each completion."""
    return np.array([len(sequence.completion) for sequence in sequences], dtype=np.int64)


def completions_of(table: Any) -> list[str | Message]:
    """The completion of each row of a table of examples: a message where it holds more than text."""
    texts: list[str | Message] = table["completion"][:]
    if "message" not in table.column_names:
        return texts
    whole = zip(texts, table["message"][:], strict=True)
    return [text if message is None else json.loads(message) for text, message in whole]


def places_of(table: Any) -> list[str]:
    """Where each row of a table of examples was read, for messages; its identity where that is not known."""
    named = [f"example {identity}" for identity in table["example_id"][:]]
    if "place" not in table.column_names:
        return named
    return [place or name for place, name in zip(table["place"][:], named, strict=True)]
