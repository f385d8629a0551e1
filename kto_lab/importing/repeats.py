"""Several thumbs on one answer to one prompt: which of them become examples.

Thumbs that say the same thing twice are settled first, then the thumbs of one rater who changed their mind, then those
of several raters. A thumb whose rater is not known counts as another rater's. Every thumb is either kept or has a
`Fate`, so none goes unaccounted for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Policy(StrEnum):
    """What several thumbs on one answer come to.

    LAST: the latest one. MAJORITY: one example with the label that most of them have; none where there is a tie.
    ALL: an example for each. DROP: one example where they agree, none where they do not.
    """

    LAST = "last"
    MAJORITY = "majority"
    ALL = "all"
    DROP = "drop"


class Fate(StrEnum):
    """Why a thumb is no example of its own, in words for a report."""

    DUPLICATE = "the same thumb twice (prompt, completion, rater, signal, thumb and time)"
    RATER_EARLIER = "one rater, several thumbs: an earlier one"
    RATER_JOINED = "one rater, several thumbs: agrees with the one that is kept"
    RATER_OUTVOTED = "one rater, several thumbs: outvoted by the majority"
    RATER_TIE = "one rater, several thumbs: a tie"
    RATER_DISAGREES = "one rater, several thumbs: they contradict each other"
    RATERS_EARLIER = "several raters: an earlier thumb"
    RATERS_JOINED = "several raters: agrees with the thumb that is kept"
    RATERS_OUTVOTED = "several raters: outvoted by the majority"
    RATERS_TIE = "several raters: a tie"
    RATERS_DISAGREE = "several raters: they contradict each other"
    NEAR_DUPLICATE = "a near duplicate of an example with the same thumb"


@dataclass(frozen=True)
class Given:
    """What is needed of a thumb to settle it.

    Attributes:
        number: its place in the source, from 0; the later of two thumbs without a time has the larger one.
        desirable: thumbs-up.
        rater: who gave it, or None.
        time: microseconds since 1970, or None.
        signal: what said so.
    """

    number: int
    desirable: bool
    rater: str | None
    time: int | None
    signal: str


@dataclass(frozen=True)
class Kept:
    """A thumb that becomes an example.

    Attributes:
        number: of the thumb.
        rater: whose it is; None where it stands for several raters.
        ratings: all thumbs that it stands for, 1 for up and -1 for down; None where it stands for itself.
    """

    number: int
    rater: str | None
    ratings: tuple[float, ...] | None = None


@dataclass(frozen=True)
class _Words:
    """The fates of one kind of repeat."""

    earlier: Fate
    joined: Fate
    outvoted: Fate
    tie: Fate
    disagree: Fate


_OF_ONE = _Words(Fate.RATER_EARLIER, Fate.RATER_JOINED, Fate.RATER_OUTVOTED, Fate.RATER_TIE, Fate.RATER_DISAGREES)
_OF_SEVERAL = _Words(
    Fate.RATERS_EARLIER, Fate.RATERS_JOINED, Fate.RATERS_OUTVOTED, Fate.RATERS_TIE, Fate.RATERS_DISAGREE
)

Settled = tuple[list[Kept], list[tuple[int, Fate]]]


def settle(thumbs: Iterable[Given], *, drop_duplicates: bool, one_rater: Policy, several_raters: Policy) -> Settled:
    """Settle the thumbs on one answer to one prompt.

    Args:
        thumbs: in any order.
        drop_duplicates: keep one of several thumbs that are the same in rater, signal, thumb and time.
        one_rater: the policy for several thumbs of one rater.
        several_raters: the policy for what is then left of different raters.

    Returns:
        The thumbs that become examples, by time, and the number and fate of every other one.
    """
    given = sorted(thumbs, key=_by_time)
    fates: list[tuple[int, Fate]] = []
    if drop_duplicates:
        given = _without_duplicates(given, fates)
    voters: dict[tuple[str, str | int], list[Given]] = {}
    for one in given:
        voters.setdefault(("unknown", one.number) if one.rater is None else ("rater", one.rater), []).append(one)
    left = [
        kept
        for own in voters.values()
        for kept in _apply(one_rater, [(one, Kept(one.number, one.rater)) for one in own], _OF_ONE, fates)
    ]
    left.sort(key=lambda vote: _by_time(vote[0]))
    if len({one.number if one.rater is None else one.rater for one, _ in left}) > 1:
        left = _apply(several_raters, left, _OF_SEVERAL, fates)
    return [kept for _, kept in left], fates


def _by_time(one: Given) -> tuple[bool, int, int]:
    """What has no time comes first, in the order of the source."""
    return one.time is not None, one.time or 0, one.number


def _without_duplicates(given: Sequence[Given], fates: list[tuple[int, Fate]]) -> list[Given]:
    seen: set[tuple[str | None, str, bool, int | None]] = set()
    left = []
    for one in given:
        what = (one.rater, one.signal, one.desirable, one.time)
        if what in seen:
            fates.append((one.number, Fate.DUPLICATE))
        else:
            seen.add(what)
            left.append(one)
    return left


Vote = tuple[Given, Kept]


def _apply(policy: Policy, votes: list[Vote], words: _Words, fates: list[tuple[int, Fate]]) -> list[Vote]:
    """What is left of votes, sorted by time, under a policy; the others' fates are added."""
    if len(votes) < 2 or policy is Policy.ALL:
        return votes
    if policy is Policy.LAST:
        fates += [(one.number, words.earlier) for one, _ in votes[:-1]]
        return votes[-1:]
    up = sum(one.desirable for one, _ in votes)
    if policy is Policy.DROP and 0 < up < len(votes):
        fates += [(one.number, words.disagree) for one, _ in votes]
        return []
    if 2 * up == len(votes):
        fates += [(one.number, words.tie) for one, _ in votes]
        return []
    label = 2 * up > len(votes)
    chosen, kept = [vote for vote in votes if vote[0].desirable == label][-1]
    fates += [
        (one.number, words.joined if one.desirable == label else words.outvoted)
        for one, _ in votes
        if one.number != chosen.number
    ]
    same = all(one.rater is not None and one.rater == chosen.rater for one, _ in votes)
    ratings = tuple(1.0 if one.desirable else -1.0 for one, _ in votes)
    # A rater's own majority is that rater's one thumb.
    return [(chosen, kept if same else Kept(chosen.number, None, ratings))]
