"""Token sequences: a prompt with a completion, and the units that a loss looks at together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np


@dataclass(frozen=True)
class Tokens:
    """One prompt and one completion as token ids."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt) + len(self.completion)


# One completion, or the two of a pair, after the same prompt.
Unit: TypeAlias = Sequence[Tokens]


def completion_lengths(sequences: Sequence[Tokens]) -> np.ndarray:
    """(N,) tokens of each completion."""
    return np.array([len(sequence.completion) for sequence in sequences], dtype=np.int64)
