import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_lab.importing.repeats import Fate, Given, Kept, Policy, Settled, settle


def thumbs(*signs: str) -> list[Given]:
    """Thumbs such as "a+3": rater a gives a thumbs-up at time 3; "?" is a rater who is not known."""
    return [
        Given(number, sign[1] == "+", None if sign[0] == "?" else sign[0], int(sign[2:]) if sign[2:] else None, "thumb")
        for number, sign in enumerate(signs)
    ]


def settled(given: list[Given], one: str = "all", several: str = "all", **changes: Any) -> Settled:
    return settle(given, one_rater=Policy(one), several_raters=Policy(several), **{"drop_duplicates": False, **changes})


@pytest.mark.parametrize(
    ("policy", "kept", "fates"),
    [
        ("last", [3], [Fate.RATER_EARLIER] * 3),
        ("majority", [3], [Fate.RATER_JOINED, Fate.RATER_JOINED, Fate.RATER_OUTVOTED]),
        ("all", [0, 1, 2, 3], []),
        ("drop", [], [Fate.RATER_DISAGREES] * 4),
    ],
)
def test_one_rater_who_changes_their_mind(policy: str, kept: list[int], fates: list[Fate]) -> None:
    found, lost = settled(thumbs("a+1", "a+2", "a-3", "a+4"), one=policy)
    assert [one.number for one in found] == kept
    assert sorted(fate for _, fate in lost) == sorted(fates)
    assert all(one.rater == "a" and one.ratings is None for one in found)


@pytest.mark.parametrize(
    ("policy", "kept", "fates"),
    [
        ("last", [2], [Fate.RATERS_EARLIER] * 2),
        ("majority", [1], [Fate.RATERS_JOINED, Fate.RATERS_OUTVOTED]),
        ("all", [0, 1, 2], []),
        ("drop", [], [Fate.RATERS_DISAGREE] * 3),
    ],
)
def test_several_raters_on_one_answer(policy: str, kept: list[int], fates: list[Fate]) -> None:
    found, lost = settled(thumbs("a+1", "b+2", "c-3"), several=policy)
    assert [one.number for one in found] == kept
    assert sorted(fate for _, fate in lost) == sorted(fates)


def test_a_majority_of_raters_is_nobodys_own_and_keeps_all_ratings() -> None:
    (kept,), _ = settled(thumbs("a+1", "b-2", "?+3"), several="majority")
    assert kept == Kept(2, None, (1.0, -1.0, 1.0))


def test_raters_change_their_minds_before_they_are_counted() -> None:
    given = thumbs("a+1", "a+2", "a-3", "b-4", "c+5")
    assert [one.number for one in settled(given, one="last", several="majority")[0]] == [3]
    assert [one.number for one in settled(given, one="majority", several="majority")[0]] == [4]


def test_a_tie_is_left_out_and_said() -> None:
    assert settled(thumbs("a+1", "b-2"), several="majority") == (
        [],
        [(0, Fate.RATERS_TIE), (1, Fate.RATERS_TIE)],
    )
    assert {fate for _, fate in settled(thumbs("a+1", "a-2"), one="majority")[1]} == {Fate.RATER_TIE}


def test_raters_who_are_not_known_are_not_one_rater() -> None:
    given = thumbs("?+1", "?-2")
    assert len(settled(given, one="last")[0]) == 2
    assert [one.number for one in settled(given, several="last")[0]] == [1]


def test_without_times_the_later_in_the_source_is_the_last_and_a_known_time_is_later() -> None:
    assert [one.number for one in settled(thumbs("a+", "a-"), one="last")[0]] == [1]
    assert [one.number for one in settled(thumbs("a+5", "a-"), one="last")[0]] == [0]


def test_the_same_thumb_twice_counts_once_unless_asked() -> None:
    given = thumbs("a+1", "a+1", "?-", "?-", "a+2")
    found, lost = settled(given, drop_duplicates=True)
    assert [one.number for one in found] == [2, 0, 4]
    assert lost == [(3, Fate.DUPLICATE), (1, Fate.DUPLICATE)]
    assert len(settled(given)[0]) == 5


GIVEN = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["a", "b", None]), st.sampled_from([None, 1, 2, 3]), st.just("thumb")),
    max_size=8,
).map(lambda items: [Given(number, *item) for number, item in enumerate(items)])


@given(GIVEN, st.sampled_from(Policy), st.sampled_from(Policy), st.booleans())
def test_every_thumb_is_kept_or_has_one_fate(given: list[Given], one: Policy, several: Policy, drop: bool) -> None:
    kept, fates = settle(given, drop_duplicates=drop, one_rater=one, several_raters=several)
    assert sorted([one.number for one in kept] + [number for number, _ in fates]) == list(range(len(given)))


@given(GIVEN, st.sampled_from(Policy), st.sampled_from(Policy), st.randoms())
def test_with_times_of_their_own_the_order_of_the_source_says_nothing(
    given: list[Given], one: Policy, several: Policy, rng: random.Random
) -> None:
    times = [Given(item.number, item.desirable, item.rater, item.number, "thumb") for item in given]
    mixed = list(times)
    rng.shuffle(mixed)
    first, second = (settle(x, drop_duplicates=True, one_rater=one, several_raters=several) for x in (times, mixed))
    assert first == second
