"""A short way for blocks of plain rows: a text that asks, a text that answers, a label, and who gave it when.

`plain_rows` reads a plain row without asking it for each form that a row may have. This reads a whole block of them
column by column; a test holds the two to the same rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from typing import Any

import pyarrow as pa

from kto_lab.errors import LabError
from kto_lab.feedback.layout import Layout
from kto_lab.feedback.plain_rows import LABEL_TYPES, SPELLED, may_be_plain
from kto_lab.feedback.rows import Block

# What else may be mapped: each is read by itself.
BESIDE = frozenset({"rater", "score", "timestamp", "group"})
# Different labels of a block, each of which is looked up; products have a handful.
_MOST_LABELS = 100


@dataclass(frozen=True)
class Thumbs:
    """Rows for `build_table`, by column: texts that are checked, and what is known beside them.

    Attributes:
        prompts: the texts that ask.
        completions: the texts that answer.
        desirable: the labels.
        scores: the ratings behind them.
        raters: who gave them; None where that is not known of any.
        timestamps: when; likewise.
        groups: what results are broken down by; likewise.
        places: where each was read.
    """

    prompts: pa.Array
    completions: pa.Array
    desirable: list[bool]
    scores: list[float | None]
    raters: list[str | None] | None
    timestamps: list[str | None] | None
    groups: list[str | None] | None
    places: list[str]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.prompts)


@dataclass(frozen=True)
class Readers:
    """How the cells of a row are read; each takes the cell, its place and the layout, and raises LabError.

    Attributes:
        label: see `mapping._label`.
        score: see `mapping._score`.
        timestamp: see `mapping._timestamp`.
        text: see `mapping._text`.
    """

    label: Callable[[Any, str, Layout], tuple[bool | None, float | None]]
    score: Callable[[Any, str], float | None]
    timestamp: Callable[[Any, str, Layout], str | None]
    text: Callable[[Any], str | None]


class PlainBlocks:
    """Reads blocks that are plain throughout."""

    def __init__(self, how: Layout, readers: Readers) -> None:
        """Take what a row is read by.

        Args:
            how: the layout, as `survey.surveyed` gives it.
            readers: what a cell says.
        """
        self._how, self._read = how, readers
        # Answers are cut row by row.
        self._plain = may_be_plain(how, BESIDE) and how.cut_at is None

    def thumbs(self, block: Block) -> Thumbs | None:
        """What `mapping.rows_of` gives for the rows of a plain block; None for another, and where a row is malformed.

        Rows whose label is neutral are left out.
        """
        columns = self._how.columns
        if not self._plain or not all(are_words(block, columns[name]) for name in ("prompt", "completion")):
            return None
        prompts, completions = block.texts(columns["prompt"]), block.texts(columns["completion"])
        labels = block.column(columns["label"])
        if prompts is None or completions is None or labels is None or (said := self._said(labels)) is None:
            return None
        beside = {name: block.column(columns[name]) for name in BESIDE if name in columns}
        if any(values is None for values in beside.values()):
            return None
        kept = [desirable is not None for desirable, _ in said]
        places = block.places()
        if not all(kept):
            prompts, completions = prompts.filter(pa.array(kept)), completions.filter(pa.array(kept))
            said, places = list(compress(said, kept)), list(compress(places, kept))
            beside = {name: list(compress(values or (), kept)) for name, values in beside.items()}
        try:
            return Thumbs(
                prompts=prompts,
                completions=completions,
                desirable=[bool(desirable) for desirable, _ in said],
                scores=self._scores([rating for _, rating in said], beside.get("score")),
                raters=self._texts(beside.get("rater")),
                timestamps=self._timestamps(beside.get("timestamp")),
                groups=self._texts(beside.get("group")),
                places=places,
            )
        except (LabError, UnicodeEncodeError):  # its row is read by itself, and says where it is
            return None

    def _scores(self, ratings: list[float | None], column: list[Any] | None) -> list[float | None]:
        if column is None:
            return ratings
        pairs = zip(ratings, column, strict=True)
        return [self._read.score(rating if score is None else score, "") for rating, score in pairs]

    def _texts(self, column: list[Any] | None) -> list[str | None] | None:
        """Cells as texts.

        Raises:
            UnicodeEncodeError: one holds half a character.
        """
        if column is None:
            return None
        texts = list(map(self._read.text, column))
        pa.array(texts, pa.string())
        return texts

    def _timestamps(self, column: list[Any] | None) -> list[str | None] | None:
        return None if column is None else [self._read.timestamp(when, "", self._how) for when in column]

    def _said(self, labels: list[Any]) -> list[tuple[bool | None, float | None]] | None:
        """What each label says; None where one means nothing, or there are too many."""
        kinds = list(map(type, labels))
        different = set(zip(kinds, labels, strict=True)) if LABEL_TYPES.issuperset(kinds) else None
        if different is None or len(different) > _MOST_LABELS:
            return None
        try:
            meanings = {(kind, label): self._read.label(label, "", self._how) for kind, label in different}
        except LabError:
            return None
        return [meanings[one] for one in zip(kinds, labels, strict=True)]


def are_words(block: Block, column: str) -> bool:
    """Whether every row of a block has text in a column that begins with a word; see `plain_rows`."""
    initials = block.initials(column)
    return initials is not None and not any(
        initial == "" or initial in SPELLED or initial.isspace() for initial in initials
    )
