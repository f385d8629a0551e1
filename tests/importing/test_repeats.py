import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_lab.importing.repeats import Fate, Given, Kept, Policies, Policy, Settled, settle


def thumbs(*signs: str) -> list[Given]:
    """Thumbs such as "a+3": rater a gives a thumbs-up at time 3; "?" is a rater who is not known."""
    return [
        Given(number, sign[1] == "+", None if sign[0] == "?" else sign[0], int(sign[2:]) if sign[2:] else None, "thumb")
        for number, sign in enumerate(signs)
    ]


def settled(given: list[Given], one: str = "all", several: str = "all", **changes: bool) -> Settled:
    keep = {"drop_duplicates": False, "drop_anonymous": False, "in_order_of_time": False}
    return settle(given, Policies(Policy(one), Policy(several), **{**keep, **changes}))


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


@pytest.mark.parametrize(
    ("signs", "kept", "in_order"),
    [
        (["a+", "a-"], [], [1]),
        (["a+5", "a-"], [], [1]),
        (["a-", "a+5"], [], [1]),
        (["a+5", "a-5"], [], [1]),
        (["a-1", "a+5", "a+"], [1], [2]),
        (["a+", "a+"], [1], [1]),
        (["a-1", "a+5", "a+5"], [2], [2]),
    ],
)
def test_no_order_of_the_source_decides_between_opposite_thumbs_unless_it_is_in_order_of_time(
    signs: list[str], kept: list[int], in_order: list[int]
) -> None:
    found, lost = settled(thumbs(*signs), one="last")
    assert [one.number for one in found] == kept
    assert {fate for _, fate in lost} == {Fate.RATER_EARLIER if kept else Fate.RATER_UNDECIDED}
    found, lost = settled(thumbs(*signs), one="last", in_order_of_time=True)
    assert [one.number for one in found] == in_order and {fate for _, fate in lost} == {Fate.RATER_EARLIER}
    several = thumbs(*(f"{name}{sign[1:]}" for name, sign in zip("abc", signs, strict=False)))
    assert [one.number for one in settled(several, several="last")[0]] == kept


def test_the_same_thumb_twice_counts_once_unless_asked() -> None:
    given = thumbs("a+1", "a+1", "?-", "?-", "a+2")
    found, lost = settled(given, drop_duplicates=True)
    assert [one.number for one in found] == [2, 3, 0, 4] and lost == [(1, Fate.DUPLICATE)]
    assert settled(given, drop_anonymous=True)[1] == [(3, Fate.ANONYMOUS)]
    assert len(settled(given)[0]) == 5


def test_thumbs_with_different_identities_are_different_thumbs() -> None:
    named = [Given(n, n < 3, None, None, "thumb", identity=f"fb-{n}") for n in range(4)]
    assert len(settled(named, one="last", drop_duplicates=True, drop_anonymous=True)[0]) == 4
    changed = [Given(n, n == 1, None, n, "thumb", identity="fb") for n in range(2)]
    found, lost = settled(changed, one="last")
    assert [one.number for one in found] == [1] and lost == [(0, Fate.RATER_EARLIER)]
    of_one = [Given(n, True, "a", 1, "thumb", identity=f"fb-{n}") for n in range(2)]
    assert len(settled(of_one, drop_duplicates=True)[0]) == 2


def test_times_that_cannot_be_read_do_not_make_two_thumbs_one() -> None:
    given = [Given(n, True, "a", None, "thumb", unread=f"day {n}") for n in (1, 2)]
    assert len(settled(given, drop_duplicates=True)[0]) == 2


def test_both_halves_of_a_pair_are_kept_with_one_identity_or_left_out_alike() -> None:
    names = {True: ("p", "a", "b"), False: ("p", "b", "a")}
    given = [(True, "x", 1), (False, "x", 2), (True, "y", 3), (True, None, None), (True, None, None)]
    halves = [
        [Given(n, up == side, rater, time, "vote", pair=names[up]) for n, (up, rater, time) in enumerate(given)]
        for side in (True, False)
    ]
    for policies in (("last", "all"), ("last", "majority"), ("all", "all"), ("majority", "last"), ("drop", "drop")):
        (first, lost), (second, lost_too) = (settled(half, *policies, drop_duplicates=True) for half in halves)
        assert lost == lost_too and [one.pair_id for one in first] == [one.pair_id for one in second]
        assert len({one.pair_id for one in first}) == len(first) and all(one.pair_id for one in first)


GIVEN = st.lists(
    st.tuples(
        *(st.booleans(), st.sampled_from(["a", "b", None]), st.sampled_from([None, 1, 2, 3])),
        *(st.just("thumb"), st.sampled_from([None, "x", "y"])),
    ),
    max_size=8,
).map(lambda items: [Given(number, *item) for number, item in enumerate(items)])


POLICIES = st.builds(
    Policies, st.sampled_from(Policy), st.sampled_from(Policy), st.booleans(), st.booleans(), st.booleans()
)


@given(GIVEN, POLICIES)
def test_every_thumb_is_kept_or_has_one_fate(given: list[Given], policies: Policies) -> None:
    kept, fates = settle(given, policies)
    assert sorted([one.number for one in kept] + [number for number, _ in fates]) == list(range(len(given)))


@given(GIVEN, POLICIES, st.randoms())
def test_with_times_of_their_own_the_order_of_the_source_says_nothing(
    given: list[Given], policies: Policies, rng: random.Random
) -> None:
    times = [dataclasses.replace(item, time=item.number) for item in given]
    mixed = list(times)
    rng.shuffle(mixed)
    first, second = (settle(x, policies) for x in (times, mixed))
    assert first == second


@given(GIVEN, POLICIES.filter(lambda policies: not policies.in_order_of_time), st.randoms())
def test_how_many_of_each_thumb_are_kept_never_depends_on_the_order_of_the_source(
    given: list[Given], policies: Policies, rng: random.Random
) -> None:
    mixed = list(given)
    rng.shuffle(mixed)
    again = [dataclasses.replace(item, number=number) for number, item in enumerate(mixed)]
    found = []
    for thumbs in (given, again):
        kept, _ = settle(thumbs, policies)
        found.append(sorted((thumbs[one.number].desirable, one.rater or "") for one in kept))
    assert found[0] == found[1]
