"""The scores of one run, a number per prompt. Thousands of runs share their prompts: a run holds its numbers alone."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray


class PromptScores(Mapping[str, float]):
    """Prompt to score.

    Attributes:
        prompts: (P,) in the order of their names; runs with the same prompts should share one tuple.
        numbers: (P,) the score of each.
    """

    def __init__(self, prompts: tuple[str, ...], numbers: ArrayLike) -> None:
        """`prompts` are sorted, each once."""
        self.prompts = prompts
        self.numbers: NDArray[np.float64] = np.asarray(numbers, dtype=np.float64)

    @classmethod
    def of(cls, scores: Mapping[str, float]) -> Self:
        """The scores of a mapping, in whatever order it is."""
        prompts = tuple(sorted(scores))
        return cls(prompts, [scores[prompt] for prompt in prompts])

    def __getitem__(self, prompt: str) -> float:
        """The score of a prompt."""
        place = bisect_left(self.prompts, prompt)
        if place == len(self.prompts) or self.prompts[place] != prompt:
            raise KeyError(prompt)
        return float(self.numbers[place])

    def __iter__(self) -> Iterator[str]:
        """The prompts."""
        return iter(self.prompts)

    def __len__(self) -> int:
        """How many prompts there are."""
        return len(self.prompts)
