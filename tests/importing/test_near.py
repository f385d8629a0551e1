from pathlib import Path

import pytest

from kto_lab.importing.near import pieces, similarity
from kto_lab.importing.repeats import Fate
from tests.importing.invented import imported, rows, thumb

LONG = "The river runs past the mill and under the old stone bridge before it meets the sea, and nobody knows why. " * 3
OTHER = "Take two eggs, a little flour and some milk; stir until nothing sticks, and bake it for half an hour. " * 3
ON = ["duplicates.near_threshold=0.8"]


def test_similarity_is_that_of_the_sets_of_pieces() -> None:
    assert similarity(pieces("abcdef"), pieces("abcdeg")) == pytest.approx(1 / 3)
    assert similarity(pieces("A  river\n"), pieces("a river")) == 1
    assert similarity(pieces("12"), pieces("13")) == 0
    assert similarity(pieces("\U0001f600 ok"), pieces("\U0001f600 ok")) == 1
    assert pieces("x" * 50).size == 1


def test_near_duplicates_are_reported_and_kept_unless_asked(tmp_path: Path) -> None:
    given = rows(
        thumb("a:1", prompt=OTHER, completion=LONG),
        thumb("a:2", prompt=OTHER, completion=LONG.replace("nobody knows why", "nobody knows how", 1)),
        thumb("a:3", prompt=OTHER, completion=LONG.replace("stone", "iron", 1), desirable=False),
        thumb("a:4", prompt=OTHER, completion=OTHER),
    )
    report, table = imported(tmp_path, given, *ON)
    assert report.near is not None and len(table) == 4
    assert (report.near.same, report.near.contradicting, report.near.dropped) == (1, 1, 0)
    report, table = imported(tmp_path, given, *ON, "duplicates.near=drop")
    assert report.near is not None and report.near.dropped == 1
    kept = {row["where"] for row in table}
    assert len(kept & {"a:1", "a:2"}) == 1 and {"a:3", "a:4"} < kept, "what contradicts is kept for the audit"
    assert [(line.reason, line.count) for line in report.fates] == [(Fate.NEAR_DUPLICATE, 1)]


def test_another_prompt_or_another_short_answer_is_no_near_duplicate(tmp_path: Path) -> None:
    given = rows(
        thumb(prompt=LONG, completion=LONG),
        thumb(prompt=OTHER, completion=LONG),
        thumb(prompt=LONG, completion="4"),
        thumb(prompt=LONG, completion="5"),
    )
    report, _ = imported(tmp_path, given, *ON)
    assert report.near is not None and report.near.same == report.near.contradicting == 0


def test_thumbs_on_one_answer_stay_or_go_together(tmp_path: Path) -> None:
    like = LONG.replace("nobody knows why", "nobody knows how", 1)
    given = rows(*(thumb(completion=text, rater=name) for text in (LONG, like) for name in "xyz"))
    report, table = imported(tmp_path, given, *ON, "duplicates.near=drop")
    assert report.near is not None and report.near.same == report.near.dropped == 3
    assert len({row["completion"] for row in table}) == 1 and len(table) == 3


def test_a_chain_of_small_steps_does_not_join_what_is_unlike(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(400)]
    texts = [" ".join(words[start : start + 100]) for start in range(0, 300, 6)]
    report, table = imported(tmp_path, rows(*(thumb(completion=text) for text in texts)), *ON, "duplicates.near=drop")
    assert report.near is not None and report.near.dropped > 10
    first = pieces(texts[0])
    ends = [similarity(first, pieces(row["completion"])) for row in table]
    assert min(ends) < 0.2, "the far end of the chain is still there"


def test_most_near_duplicates_are_found(tmp_path: Path) -> None:
    given = rows(
        *(
            thumb(
                f"a:{n}-{k}",
                prompt=f"Say {n:03} " + "once more with feeling " * 9,
                completion=f"{n * 7919} " * 9 + OTHER + "!" * k,
            )
            for n in range(60)
            for k in range(2)
        )
    )
    report, _ = imported(tmp_path, given, "duplicates.near_threshold=0.9")
    assert report.near is not None
    assert report.near.same >= 54
