"""Near-duplicates with the other thumb."""

import pytest

from kto_lab.auditing.contradiction import contradiction, near_pairs, neighbours
from kto_lab.auditing.examples import Examples
from kto_lab.auditing.signals import Signal
from kto_lab.errors import LabError
from kto_lab.feedback.table import build_table

LONG = "The quick brown fox jumps over the lazy dog near the river bank on a sunny afternoon in June"


def examples(*rows: tuple[str, str, bool]) -> Examples:
    given = [{"prompt": p, "completion": c, "desirable": up, "split": "train"} for p, c, up in rows]
    return Examples.of(build_table(given, source="few", held_out=0.0))


def signal_of(found: Examples, similarity: float | None) -> Signal:
    return contradiction(neighbours(found, similarity=similarity), found.labels)


def test_the_same_text_with_the_other_thumb_is_doubted() -> None:
    signal = signal_of(examples(("p", "yes", True), ("p", "yes", True), ("p", "yes", False), ("p", "no", False)), None)
    assert signal.known.tolist() == [True, True, True, False]
    # One thumb up and one down beside the first two; two up beside the third.
    assert signal.up.tolist() == pytest.approx([0.5, 0.5, 0.75, 0.5])


def test_a_near_duplicate_counts_and_a_different_answer_does_not() -> None:
    near = (("Tell me of foxes, please", LONG, True), ("Tell me of foxes, please", LONG + "!", False))
    other = ("Tell me of foxes, please", "I know nothing of that, but ask me about ships and the sea instead", True)
    signal = signal_of(examples(*near, other), 0.8)
    assert signal.known.tolist() == [True, True, False]
    assert signal.up.tolist() == pytest.approx([1 / 3, 2 / 3, 0.5])
    assert not signal_of(examples(*near, other), None).speaks


def test_both_the_prompt_and_the_answer_have_to_be_near() -> None:
    assert near_pairs([("p " + LONG, "yes"), ("p " + LONG, "no")], 0.5) == []
    assert near_pairs([("p " + LONG, LONG), ("p " + LONG + ".", LONG + ".")], 0.8) == [(0, 1)]


def test_sums_that_differ_in_a_digit_are_no_duplicates() -> None:
    signal = signal_of(examples(("42+31=", "73", True), ("42+32=", "73", False)), 0.8)
    assert not signal.speaks


def test_a_similarity_out_of_range_is_refused() -> None:
    with pytest.raises(LabError, match="near_duplicates"):
        signal_of(examples(("p", "a", True), ("p", "b", False)), 1.5)
