"""The examples of a table as the signals read them, and the folds that keep an example's label from its own signals."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kto_lab.errors import LabError
from kto_lab.feedback.table import ratings_of
from kto_lab.feedback.table_numbers import require_both_classes
from kto_lab.hashing import content_hash

if TYPE_CHECKING:
    from datasets import Dataset

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Columns of a table of N examples.

    Attributes:
        example_ids: (N,) identities.
        prompts: (N,) as text; chat messages one after another.
        prompt_ids: (N,) identities of the prompts.
        completions: (N,) the answers that were judged.
        finished: (N,) the answer ended by itself.
        labels: (N,) thumbs-up. These are what is doubted; the clean labels are never read.
        raters: (N,) who gave the thumb, None where it is not known.
        ratings: (N,) all raters' ratings of the answer, None where they are not known.
    """

    example_ids: list[str]
    prompts: list[str]
    prompt_ids: list[str]
    completions: list[str]
    finished: Bools
    labels: Bools
    raters: list[str | None]
    ratings: list[list[float] | None]

    def __len__(self) -> int:
        """N."""
        return len(self.example_ids)

    @cached_property
    def prompt_numbers(self) -> Ints:
        """(N,) which prompt each example answers, from 0."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(prompt, len(numbers)) for prompt in self.prompt_ids], dtype=np.int64)

    @classmethod
    def of(cls, table: "Dataset") -> "Examples":
        """The examples of a table.

        Raises:
            LabError: they are all of one class, so that no label can be told from the other.
        """
        require_both_classes(table)
        return cls(
            example_ids=table["example_id"][:],
            prompts=[prompt_text(prompt) for prompt in table["prompt"][:]],
            prompt_ids=table["prompt_id"][:],
            completions=table["completion"][:],
            finished=np.array(table["finished"][:], dtype=bool),
            labels=np.array(table["desirable"][:], dtype=bool),
            raters=table["rater"][:],
            ratings=ratings_of(table),
        )


def prompt_text(prompt: str | list[Mapping[str, str]]) -> str:
    """A prompt as text: each message's words on a line of their own."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def make_folds(examples: Examples, folds: int, *, seed: int) -> Ints:
    """The fold (N,) of each example, from 0: a hash of its prompt, so that no prompt is in two folds.

    Raises:
        LabError: a fold, or what is left without it, does not have both classes or has no prompt.
    """
    if folds < 2:
        raise LabError(f"folds is {folds}; it must be at least 2: labels of one part are told from the other parts.")
    drawn: dict[str, int] = {}
    for prompt in examples.prompt_ids:
        if prompt not in drawn:
            drawn[prompt] = int(content_hash("audit fold", seed, prompt), 16) % folds
    found = np.array([drawn[prompt] for prompt in examples.prompt_ids], dtype=np.int64)
    for fold in range(folds):
        inside = examples.labels[found == fold]
        outside = examples.labels[found != fold]
        if not len(inside) or len(set(outside.tolist())) < 2:
            raise LabError(
                f"{len(drawn)} prompts with {int(examples.labels.sum())} thumbs up of {len(examples)} are too few for "
                f"folds={folds}: each part needs prompts, and the others both classes. Lower folds, or use more data."
            )
    return found
