"""Answers that the tool which wrote them cut short: the policy must not learn that they end there."""

from dataclasses import dataclass, field

_ELLIPSES = ("…", "...")
# Answers that must share the longest length to be suspicious, and the shortest length at which that is no chance.
_SHARED, _SHORTEST = 3, 100


def cut(completion: str, cut_at: int | None, *, finished: bool) -> tuple[str, bool]:
    """The answer, without the ellipsis that a cut leaves, and whether it ended by itself.

    Args:
        completion: as the tool wrote it.
        cut_at: characters at which the tool cuts, an ellipsis counted or not; None: it does not.
        finished: what the tool says of it.
    """
    if cut_at is None or len(completion) < cut_at:
        return completion, finished
    mark = next((mark for mark in _ELLIPSES if completion.endswith(mark)), "")
    if len(completion) > cut_at + len(mark):
        return completion, finished
    return completion.removesuffix(mark), False


@dataclass
class Longest:
    """The longest answers of a source that are said to be finished, to see whether a tool cut them."""

    length: int = 0
    texts: set[int] = field(default_factory=set)

    def see(self, completion: str, *, finished: bool) -> None:
        """Take an answer in."""
        if not finished or len(completion) < self.length:
            return
        if len(completion) > self.length:
            self.length, self.texts = len(completion), set()
        self.texts.add(hash(completion))

    def suspicion(self, node: str) -> str | None:
        """What to say where different answers all have the longest length; None where nothing is odd."""
        if len(self.texts) < _SHARED or self.length < _SHORTEST:
            return None
        return (
            f"{len(self.texts)} different answers have exactly {self.length} characters, and none has more: the tool "
            f"that wrote them may have cut them there. If so, set {node}.cut_at={self.length}: then they get no end of "
            "turn."
        )
