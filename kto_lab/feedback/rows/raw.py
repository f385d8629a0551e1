"""A raw row, as a file has it: a dict with its place, or why it cannot be read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from kto_lab.errors import LabError


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be read.

    Attributes:
        detail: why, in a few words.
        remedy: what to do about it, in a sentence.
        last: the file cannot be read beyond it.
    """

    detail: str
    remedy: str = "Repair or remove the row."
    last: bool = False

    def error(self, where: str) -> LabError:
        """The same as an error about the row's place."""
        return LabError(f"{where}: {self.detail}. {self.remedy}")


Raw: TypeAlias = tuple[str, dict[str, Any] | Unreadable]


def readable(raws: Iterable[Raw]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows that can be read, with their places."""
    for where, raw in raws:
        if not isinstance(raw, Unreadable):
            yield where, raw


def all_readable(raws: Iterable[Raw]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows with their places; LabError at the first that cannot be read."""
    for where, raw in raws:
        if isinstance(raw, Unreadable):
            raise raw.error(where)
        yield where, raw
