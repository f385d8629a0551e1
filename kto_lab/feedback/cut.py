"""Answers that were cut short by the tool that wrote them: the policy must not learn that they end there."""

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

_ELLIPSES = ("…", "...")
# How many answers must share the longest length to be suspicious, and the length below which that can be chance.
_SHARED, _SHORTEST = 3, 100


def cut(completion: str, cut_at: int | None, *, finished: bool) -> tuple[str, bool]:
    """The answer without the ellipsis that a cut leaves, and whether it ended by itself.

    Args:
        completion: as the tool wrote it.
        cut_at: characters at which the tool cuts, with or without an ellipsis; None: it does not cut.
        finished: whether it ended by itself, according to the tool.
    """
    if cut_at is None or len(completion) < cut_at:
        return completion, finished
    mark = next((mark for mark in _ELLIPSES if completion.endswith(mark)), "")
    if len(completion) > cut_at + len(mark):
        return completion, finished
    return completion.removesuffix(mark), False


@dataclass
class Longest:
    """The longest of a source's finished answers, to see whether a tool cut them."""

    length: int = 0
    texts: set[int] = field(default_factory=set)

    def see(self, completion: str, *, finished: bool) -> None:
        """Take an answer into account."""
        if not finished or len(completion) < self.length:
            return
        if len(completion) > self.length:
            self.length, self.texts = len(completion), set()
        self.texts.add(hash(completion))

    def see_all(self, completions: pa.Array) -> None:
        """Take finished answers into account."""
        for answer in completions.filter(pc.greater_equal(pc.utf8_length(completions), self.length)).to_pylist():
            self.see(answer, finished=True)

    def suspicion(self, node: str) -> str | None:
        """A warning where several different answers have the longest length; None otherwise."""
        if len(self.texts) < _SHARED or self.length < _SHORTEST:
            return None
        return (
            f"{len(self.texts)} different answers have exactly {self.length} characters, and none has more: the tool "
            f"that wrote them may have cut them there. If so, set {node}.cut_at={self.length}, so that they get no end "
            "of turn."
        )
