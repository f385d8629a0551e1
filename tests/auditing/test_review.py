import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from kto_lab import cli
from kto_lab.auditing.exchange import Choice, Decision
from kto_lab.auditing.review import apply, rates_at_random, rates_of_suspects, review_feedback, settle
from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.statistics import proportion_interval
from tests.auditing.review_cases import table
from tests.small_runs import composed

IDENTITIES = table()["example_id"][:]


def decision(
    number: int, choice: Choice, reviewer: str = "Ada", *, shown: bool | None = None, at_random: bool = False
) -> Decision:
    thumb = number % 2 == 0 if shown is None else shown
    return Decision("here", IDENTITIES[number], choice, thumb, reviewer, at_random)


def applied(examples: Dataset, *decisions: Decision) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """The rows after decisions, by example, and the counts."""
    after, counts = apply(examples, settle(decisions, "error").verdicts)
    return {row["example_id"]: row for row in after.to_pylist()}, counts


def test_decisions_set_the_label_and_the_clean_label() -> None:
    rows, counts = applied(table(), decision(0, "flip"), decision(1, "flip"), decision(2, "keep"), decision(3, "drop"))
    assert list(rows) == [identity for identity in IDENTITIES if identity != IDENTITIES[3]]
    expected = [False, True, True, True, False]
    assert [row["desirable"] for row in rows.values()] == expected
    assert [row["desirable_clean"] for row in rows.values()] == expected
    assert [row["reviewed_by"] for row in rows.values()] == ["Ada", "Ada", "Ada", None, None]
    assert counts == {"kept": 1, "flipped": 2, "dropped": 1, "labels_changed": 2, "shown_otherwise": 0}


def test_decisions_that_are_applied_again_flip_nothing_back(tmp_path: Path) -> None:
    verdicts = settle([decision(0, "flip"), decision(1, "keep")], "error").verdicts
    once, _ = apply(table(), verdicts)
    pq.write_table(once, tmp_path / "once.parquet")
    twice, counts = apply(from_collected(str(tmp_path / "once.parquet"), None), verdicts)
    assert twice["desirable"] == once["desirable"]
    assert counts["labels_changed"] == 0 and counts["shown_otherwise"] == 1


def test_a_reviewer_of_damaged_thumbs_speaks_of_what_was_shown() -> None:
    rows, counts = applied(table(), decision(0, "keep", shown=False), decision(2, "flip", shown=False))
    assert [rows[IDENTITIES[number]]["desirable"] for number in (0, 2)] == [False, True]
    assert counts["labels_changed"] == 1 and counts["shown_otherwise"] == 2


def test_a_decision_on_no_example_of_the_table_is_said() -> None:
    stranger = Decision("here", "another", "keep", True, "Ada", False)
    with pytest.raises(LabError, match="1 of 2 decided examples are not in the table, such as another"):
        applied(table(), decision(0, "keep"), stranger)


def test_dropping_everything_is_said() -> None:
    with pytest.raises(LabError, match="drop every example"):
        applied(table(2), decision(0, "drop"), decision(1, "drop"))


@pytest.mark.parametrize(
    ("policy", "two_to_one", "tie"),
    [("majority", "flip", None), ("leave", None, None), ("drop", "drop", "drop")],
)
def test_reviewers_who_differ_are_settled(policy: Any, two_to_one: str | None, tie: str | None) -> None:
    votes = [
        *[decision(0, choice, who) for who, choice in {"Ada": "flip", "Bob": "flip", "Cy": "keep"}.items()],
        *[decision(1, choice, who) for who, choice in {"Ada": "flip", "Bob": "drop", "Cy": "skip"}.items()],
        *[decision(2, "keep", who) for who in ("Ada", "Bob")],
    ]
    found = settle(votes, policy)
    choices = [getattr(found.verdicts.get(IDENTITIES[number]), "choice", None) for number in range(3)]
    assert choices == [two_to_one, tie, "keep"]
    assert found.disputed == 2 and found.left == choices.count(None)
    assert found.verdicts[IDENTITIES[2]].reviewers == ("Ada", "Bob")
    if two_to_one == "flip":
        assert found.verdicts[IDENTITIES[0]].reviewers == ("Ada", "Bob"), "those who said so"


def test_reviewers_who_differ_can_stop_it() -> None:
    with pytest.raises(LabError, match=r"reviewers differ on .*: flip \(Ada\), keep \(Bob\)"):
        settle([decision(0, "flip", "Ada"), decision(0, "keep", "Bob")], "error")


def test_a_reviewers_last_word_counts_and_a_skip_decides_nothing() -> None:
    found = settle([decision(0, "flip"), decision(0, "keep"), decision(1, "flip"), decision(1, "skip")], "error")
    assert {identity: verdict.choice for identity, verdict in found.verdicts.items()} == {IDENTITIES[0]: "keep"}
    assert found.undecided == 1 and found.disputed == 0


def test_decisions_of_two_audits_are_not_mixed() -> None:
    with pytest.raises(LabError, match="from one audit at a time"):
        settle([decision(0, "keep", "Ada"), decision(0, "keep", "Bob", shown=False)], "majority")
    with pytest.raises(LabError, match="There is no decision"):
        settle([], "majority")
    with pytest.raises(LabError, match="conflicts is 'vote'"):
        settle([decision(0, "keep")], "vote")  # type: ignore[arg-type]


def test_rates_are_counted_apart_for_suspects_and_for_a_random_sample() -> None:
    votes = [
        decision(0, "flip"),
        decision(2, "keep"),
        decision(4, "drop"),
        decision(1, "keep", at_random=True),
        decision(3, "flip", at_random=True),
        decision(5, "drop", at_random=True),
    ]
    verdicts = settle(votes, "error").verdicts.values()
    assert rates_of_suspects(verdicts) == {
        "wrong_up": proportion_interval(1, 2),
        "wrong_down": proportion_interval(0, 0),
    }
    assert rates_at_random(verdicts) == {
        "wrong_up": proportion_interval(0, 0),
        "wrong_down": proportion_interval(1, 2),
        # Both were down; of the one that is truly up, the thumb was down.
        "flip_down": proportion_interval(1, 1),
        "flip_up": proportion_interval(0, 1),
    }


def files(folder: Path, *decided: tuple[int, str], reviewer: str = "Ada") -> list[str]:
    """The table and a reviewer's decisions as files: words of the command line."""
    if not (folder / "audited.parquet").exists():
        pq.write_table(table().data.table, folder / "audited.parquet")
    items = [
        {
            "example_id": IDENTITIES[number],
            "decision": choice,
            "desirable": number % 2 == 0,
            "sampled_at_random": number > 2,
        }
        for number, choice in decided
    ]
    content = {"format": "kto-lab decisions", "version": 1, "audit": "x", "reviewer": reviewer, "decisions": items}
    (folder / f"{reviewer}.json").write_text(json.dumps(content))
    paths = [f"feedback.path={folder / 'audited.parquet'}", f"output={folder / 'reviewed.parquet'}"]
    return [*paths, f"decisions={folder / f'{reviewer}.json'}"]


def test_the_command_writes_a_table_that_a_run_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = files(tmp_path, (0, "flip"), (1, "keep"), (2, "drop"), (3, "flip"), (4, "keep"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kto-lab", "feedback", "review", *words])
    cli.main()
    said = capsys.readouterr().out
    assert "5 examples decided by 1 reviewer: 2 kept, 2 flipped, 1 dropped" in said
    assert "3 labels" not in said and "2 labels of the table changed" in said
    assert f"feedback=collected feedback.path={tmp_path / 'reviewed.parquet'}" in said
    found = from_collected(str(tmp_path / "reviewed.parquet"), None)
    assert found["desirable"][:] == [False, False, True, True, False]
    numbers = json.loads((tmp_path / "reviewed.review.json").read_text())
    assert numbers["examples"] == {"before": 6, "after": 5}
    assert numbers["decisions"] == {"flip": 2, "keep": 2, "drop": 1} and numbers["reviewers"] == {"Ada": 5}
    assert numbers["rates"]["suspects"]["wrong_up"] == proportion_interval(1, 1).as_dict()
    assert numbers["rates"]["sampled_at_random"]["flip_down"] == proportion_interval(1, 2).as_dict()
    assert "wrong, of thumbs up" in said and "thumb down, of truly up" in said


def test_several_reviewers_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path, (0, "flip"), (1, "keep"), reviewer="Bob")
    words = files(tmp_path, (0, "keep"), (1, "keep"))
    words[-1] = f"decisions=[{tmp_path / 'Ada.json'},{tmp_path / 'Bob.json'}]"
    review_feedback(composed(words, name="review"))
    numbers = json.loads((tmp_path / "reviewed.review.json").read_text())
    assert (numbers["kept"], numbers["disputed"], numbers["left"]) == (1, 1, 1)
    said = capsys.readouterr().out
    assert "by 2 reviewers" in said and "are no random sample" in said


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("conflicts=vote", "conflicts is 'vote'"),
        ("decisions=missing.json", "there is no file missing.json"),
        ("+model=tiny", "Nothing reads the configuration's model"),
        ("output=???", "Not set: output"),
    ],
)
def test_a_configuration_that_does_not_fit_is_said(tmp_path: Path, word: str, message: str) -> None:
    words = files(tmp_path, (0, "flip"))
    with pytest.raises(LabError, match=message):
        review_feedback(composed([*words, word], name="review"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["Ada.json", "audited.parquet"]


@pytest.mark.parametrize("name", ["reviewed.parquet", "reviewed.review.json"])
def test_a_review_is_not_overwritten(tmp_path: Path, name: str) -> None:
    words = files(tmp_path, (0, "flip"))
    (tmp_path / name).write_text("mine")
    with pytest.raises(LabError, match=f"{name} exists"):
        review_feedback(composed(words, name="review"))
    assert (tmp_path / name).read_text() == "mine"
