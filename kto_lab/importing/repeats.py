"""Several thumbs on one answer to one prompt: which of them become examples.

Duplicate thumbs are settled first, then the thumbs of one rater who changed their mind, then those of several raters. A
thumb whose rater is not known counts as a different rater's. Every thumb is either kept or has a `Fate`, so that all
are accounted for.

Each half of a pair is settled with the halves of the pairs that compare the same two answers. The other half mirrors it
with opposite thumbs, so that a pair is kept or left out as a whole.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

from kto_lab.hashing import content_hash


class Policy(StrEnum):
    """What becomes of several thumbs on one answer.

    LAST: the latest one; none where no time says which of opposite ones it is. MAJORITY: one example with the label
    that most of them have; none where there is a tie. ALL: an example for each. DROP: one example where they agree,
    none where they do not.
    """

    LAST = "last"
    MAJORITY = "majority"
    ALL = "all"
    DROP = "drop"


class Fate(StrEnum):
    """Why a thumb is no example of its own, in words for a report."""

    DUPLICATE = "the same thumb twice (prompt, completion, rater, signal, thumb and time)"
    ANONYMOUS = "alike in all that is known, with neither a rater nor an identity to tell them apart"
    RATER_UNDECIDED = "one rater, opposite thumbs: no time says which is the last"
    RATER_EARLIER = "one rater, several thumbs: an earlier one"
    RATER_JOINED = "one rater, several thumbs: agrees with the one that is kept"
    RATER_OUTVOTED = "one rater, several thumbs: outvoted by the majority"
    RATER_TIE = "one rater, several thumbs: a tie"
    RATER_DISAGREES = "one rater, several thumbs: they contradict each other"
    RATERS_UNDECIDED = "several raters, opposite thumbs: no time says which is the last"
    RATERS_EARLIER = "several raters: an earlier thumb"
    RATERS_JOINED = "several raters: agrees with the thumb that is kept"
    RATERS_OUTVOTED = "several raters: outvoted by the majority"
    RATERS_TIE = "several raters: a tie"
    RATERS_DISAGREE = "several raters: they contradict each other"
    NEAR_DUPLICATE = "a near duplicate of an example with the same thumb"


@dataclass(frozen=True)
class Given:
    """A thumb, as far as settling needs it.

    Attributes:
        number: its place in the source, from 0.
        desirable: thumbs-up.
        rater: who gave it, or None.
        time: microseconds since 1970, or None.
        signal: the signal that it comes from.
        identity: its id in the source, or None.
        unread: a time that cannot be read, or None.
        pair: keys of prompt, chosen and rejected answer, where it is half of a pair.
    """

    number: int
    desirable: bool
    rater: str | None
    time: int | None
    signal: str
    identity: str | None = None
    unread: str | None = None
    pair: tuple[str, str, str] | None = None

    @property
    def voter(self) -> tuple[str, str | int]:
        """Whose thumb it is, as far as is known: one with an identity can be changed without a rater's name."""
        if self.rater is not None:
            return "rater", self.rater
        return ("unknown", self.number) if self.identity is None else ("identity", self.identity)


@dataclass(frozen=True)
class Kept:
    """A thumb that becomes an example.

    Attributes:
        number: the thumb's number.
        rater: who gave it; None where it stands for several raters.
        ratings: all thumbs that it stands for, 1 for up and -1 for down; None where it stands for itself.
        pair_id: the same for both halves of a pair; None for other thumbs.
    """

    number: int
    rater: str | None
    ratings: tuple[float, ...] | None = None
    pair_id: str | None = None


@dataclass(frozen=True)
class _Words:
    """The fates of one kind of repeat."""

    undecided: Fate
    earlier: Fate
    joined: Fate
    outvoted: Fate
    tie: Fate
    disagree: Fate


_OF_ONE = _Words(
    Fate.RATER_UNDECIDED,
    Fate.RATER_EARLIER,
    Fate.RATER_JOINED,
    Fate.RATER_OUTVOTED,
    Fate.RATER_TIE,
    Fate.RATER_DISAGREES,
)
_OF_SEVERAL = _Words(
    Fate.RATERS_UNDECIDED,
    Fate.RATERS_EARLIER,
    Fate.RATERS_JOINED,
    Fate.RATERS_OUTVOTED,
    Fate.RATERS_TIE,
    Fate.RATERS_DISAGREE,
)

Settled = tuple[list[Kept], list[tuple[int, Fate]]]


@dataclass(frozen=True)
class Policies:
    """What to do with several thumbs on one answer.

    Attributes:
        one_rater: the policy for several thumbs by one rater.
        several_raters: the policy for what is then left by different raters.
        drop_duplicates: keep one of several that share rater, signal, thumb and time, unless their identities differ.
        drop_anonymous: keep one of several that are alike and have neither a rater nor an identity.
        in_order_of_time: the source is in order of time: where no time decides, the later row is the last.
    """

    one_rater: Policy
    several_raters: Policy
    drop_duplicates: bool
    drop_anonymous: bool
    in_order_of_time: bool


def settle(thumbs: Iterable[Given], policies: Policies) -> Settled:
    """Settle the thumbs on one answer to one prompt, or the halves of pairs that compare it with one other answer.

    Args:
        thumbs: in any order.
        policies: what to do with them.

    Returns:
        The thumbs that become examples, by time, and the number and fate of every other one.
    """
    given = sorted(thumbs, key=_by_time)
    fates: list[tuple[int, Fate]] = []
    given = _without_duplicates(given, policies, fates)
    voters: dict[tuple[str, str | int], list[Given]] = {}
    for one in given:
        voters.setdefault(one.voter, []).append(one)
    one_rater = partial(_apply, policies.one_rater, policies.in_order_of_time, _OF_ONE, fates)
    left = [kept for own in voters.values() for kept in one_rater([(one, Kept(one.number, one.rater)) for one in own])]
    left.sort(key=lambda vote: _by_time(vote[0]))
    if len({one.voter for one, _ in left}) > 1:
        left = _apply(policies.several_raters, policies.in_order_of_time, _OF_SEVERAL, fates, left)
    return _with_pairs(left), fates


def _with_pairs(votes: Iterable[tuple[Given, Kept]]) -> list[Kept]:
    """The kept thumbs; halves of pairs get their pair's identity: what it compares, and its number among equal pairs.

    Both halves get the same one, since the pairs of two answers are settled in the same order on either side.
    """
    alike: Counter[tuple[bool, str | None]] = Counter()
    found = []
    for one, kept in votes:
        if one.pair is not None:
            alike[one.desirable, kept.rater] += 1
            name = content_hash("pair", *one.pair, kept.rater, alike[one.desirable, kept.rater])
            kept = replace(kept, pair_id=name)
        found.append(kept)
    return found


def _by_time(one: Given) -> tuple[bool, int, int]:
    """Thumbs without a time come first, in the order of the source."""
    return one.time is not None, one.time or 0, one.number


def _without_duplicates(given: Sequence[Given], policies: Policies, fates: list[tuple[int, Fate]]) -> list[Given]:
    seen: set[tuple[Any, ...]] = set()
    left = []
    for one in given:
        anonymous = one.rater is None and one.identity is None
        what = (one.rater, one.identity, one.signal, one.desirable, one.time, one.unread)
        if what in seen and (policies.drop_anonymous if anonymous else policies.drop_duplicates):
            fates.append((one.number, Fate.ANONYMOUS if anonymous else Fate.DUPLICATE))
        else:
            seen.add(what)
            left.append(one)
    return left


Vote = tuple[Given, Kept]


def _last(votes: list[Vote], in_order_of_time: bool) -> Vote | None:
    """The latest of votes, sorted by time; None where opposite ones could be the latest.

    Any vote without a time may be the latest, as may all with the latest time.
    """
    latest = votes[-1][0].time
    could_be = [vote for vote in votes if vote[0].time is None or vote[0].time == latest]
    if in_order_of_time:
        return max(could_be, key=lambda vote: vote[0].number)
    if len({one.desirable for one, _ in could_be}) > 1:
        return None
    # Of several at one time, who agree, the same one whatever their order in the source.
    return max(could_be, key=lambda vote: (*_by_time(vote[0])[:2], vote[0].rater or "", vote[0].number))


def _apply(
    policy: Policy, in_order_of_time: bool, words: _Words, fates: list[tuple[int, Fate]], votes: list[Vote]
) -> list[Vote]:
    """The votes, sorted by time, that a policy keeps; the others' fates are added."""
    if len(votes) < 2 or policy is Policy.ALL:
        return votes
    if policy is Policy.LAST:
        last = _last(votes, in_order_of_time)
        fates += [(vote[0].number, words.earlier if last else words.undecided) for vote in votes if vote is not last]
        return [last] if last else []
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
