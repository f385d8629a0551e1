"""`kto-lab feedback import`, from rows in memory and from a file."""

import dataclasses
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kto_lab import cli
from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.table import build_table, is_chat
from kto_lab.feedback.table_numbers import fingerprint
from kto_lab.importing import writing
from kto_lab.importing.repeats import Fate
from kto_lab.importing.report import notes
from kto_lab.importing.thumbs import LeftOut, Reason, Row
from tests.importing.invented import imported, rows, thumb
from tests.small_runs import write_jsonl

NOTHING = Row(left_out=(LeftOut("a:9", Reason.NO_THUMB),))


def test_the_command_writes_a_table_that_a_run_reads_and_a_report_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [{"prompt": f"{n}+{n}=", "completion": str(2 * n), "label": n % 3 > 0} for n in range(40)]
    write_jsonl(tmp_path / "export.jsonl", [*given, {"prompt": "?", "completion": "", "label": True}])
    words = ["export=file", "export.path=export.jsonl", "output=out/thumbs.parquet"]
    monkeypatch.setattr(sys, "argv", ["kto-lab", "feedback", "import", *words])
    cli.main()
    names = ["thumbs.import_report.html", "thumbs.import_report.json", "thumbs.parquet"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names, "nothing else is left behind"
    table = from_collected("out/thumbs.parquet", None)
    wanted = build_table(
        ({**row, "desirable": row["label"], "group": "unknown", "origin": "imported"} for row in given),
        source="x",
        held_out=0.2,
    )
    assert fingerprint(table) == fingerprint(wanted)
    numbers = json.loads(Path("out/thumbs.import_report.json").read_text())
    assert (numbers["rows"], numbers["rows_taken"], numbers["examples"]) == (41, 40, 40)
    assert [line["reason"] for line in numbers["reasons"]] == [Reason.NO_COMPLETION]
    said = capsys.readouterr().out
    assert "out/thumbs.import_report.html" in said and "feedback.path=out/thumbs.parquet" in said
    with pytest.raises(SystemExit):
        cli.main()
    assert "out/thumbs.parquet exists" in capsys.readouterr().err


def test_policies_come_from_the_configuration(tmp_path: Path) -> None:
    times = [f"2026-05-0{day}T00:00:00Z" for day in range(1, 5)]
    given = rows(
        thumb("a:1", rater="x", timestamp=times[0]),
        thumb("a:2", rater="x", timestamp=times[1], desirable=False),
        thumb("a:3", rater="y", timestamp=times[2]),
        thumb("a:4", rater="y", timestamp=times[2]),
        thumb("a:5", rater="z", timestamp=times[3], desirable=False),
    )
    report, table = imported(tmp_path, given)
    assert [(row["rater"], row["desirable"]) for row in table] == [("x", False), ("y", True), ("z", False)]
    assert len({row["example_id"] for row in table}) == 3
    assert {line.reason: line.count for line in report.fates} == {
        "the same thumb twice (prompt, completion, rater, signal, thumb and time)": 1,
        "one rater, several thumbs: an earlier one": 1,
    }
    _, table = imported(tmp_path, given, "repeats.several_raters=majority")
    assert [(row["rater"], row["desirable"], row["ratings"]) for row in table] == [(None, False, [-1.0, 1.0, -1.0])]
    _, table = imported(tmp_path, given, "repeats.one_rater=all", "duplicates.exact=keep")
    assert len(table) == 5 and len({row["example_id"] for row in table}) == 5


def test_opposite_thumbs_without_a_time_that_decides_are_left_out_unless_the_rows_are_in_order(tmp_path: Path) -> None:
    given = rows(
        thumb("a:1", rater="x"),
        thumb("a:2", rater="x", desirable=False),
        thumb("a:3", rater="y", prompt="q"),
        thumb("a:4", rater="x", prompt="r", unread_time="'yesterday'"),
        thumb("a:5", rater="x", prompt="r", unread_time="'last Tuesday'"),
    )
    report, table = imported(tmp_path, given)
    assert sorted(row["prompt"] for row in table) == ["q", "r"]
    lines = {line.reason: (line.count, line.places) for line in report.fates}
    assert lines[Fate.RATER_UNDECIDED] == (2, ["a:1", "a:2"])
    assert report.unread_times is not None
    assert (report.unread_times.count, report.unread_times.places[0]) == (2, "a:4: 'yesterday'")
    _, table = imported(tmp_path, given, "repeats.rows_in_order_of_time=true")
    assert sorted((row["prompt"], row["desirable"]) for row in table) == [
        ("What is 1+1?", False),
        ("q", True),
        ("r", True),
    ]
    with pytest.raises(LabError, match=r"2 times one rater, opposite.*\(a:1\).*repeats\.rows_in_order_of_time=true"):
        imported(tmp_path, given[:2])


def test_thumbs_that_nothing_tells_apart_are_kept_and_said_or_dropped_by_a_key(tmp_path: Path) -> None:
    named = rows(*(thumb(identity=f"fb-{n}", desirable=n < 3) for n in range(4)))
    report, table = imported(tmp_path, named)
    assert [row["desirable"] for row in table].count(True) == 3 and len(table) == 4 and report.anonymous == 0
    nameless = rows(*(thumb(desirable=n < 3) for n in range(4)))
    report, table = imported(tmp_path, nameless)
    assert len(table) == 4 and report.anonymous == 2
    assert any("duplicates.anonymous=drop" in words for words in notes(report))
    report, table = imported(tmp_path, nameless, "duplicates.anonymous=drop")
    assert [row["desirable"] for row in table].count(True) == 1 and len(table) == 2
    assert [(line.reason, line.count) for line in report.fates] == [(Fate.ANONYMOUS, 2)]


def pair(where: str, chosen: str, rejected: str, **changes: Any) -> Row:
    first = thumb(where, completion=chosen, desirable=True, signal="vote", pair=where, **changes)
    return Row((first, thumb(where, completion=rejected, desirable=False, signal="vote", pair=where, **changes)))


def compared(table: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Chosen and rejected of each pair of a table."""
    halves: dict[str, dict[bool, str]] = {}
    for row in table:
        assert row["desirable"] not in halves.setdefault(row["pair_id"], {})
        halves[row["pair_id"]][row["desirable"]] = row["completion"]
    return sorted((sides[True], sides[False]) for sides in halves.values())


def test_pairs_stay_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [pair("a:1", "Apple.", "A stone."), pair("a:2", "Pear.", "Apple."), pair("a:3", "Pear.", "A hat.")]
    wanted = [("Apple.", "A stone."), ("Pear.", "A hat."), ("Pear.", "Apple.")]
    monkeypatch.setattr(writing, "BATCH", 1)
    for rater in (None, "x"):
        known = [Row(tuple(dataclasses.replace(half, rater=rater) for half in row.thumbs)) for row in given]
        report, table = imported(tmp_path, known, "repeats.several_raters=last")
        assert compared(table) == wanted and len({row["example_id"] for row in table}) == 6
        assert (report.pairs, report.won_and_lost) == (3, 1)
        assert any("1 answers won one pair and lost another" in words for words in notes(report))
        _, again = imported(tmp_path, known[::-1])
        assert {row["example_id"]: row["pair_id"] for row in again} == {
            row["example_id"]: row["pair_id"] for row in table
        }
    assert compared(from_collected(str(tmp_path / "thumbs.parquet"), None).to_list()) == wanted


def test_a_pair_is_settled_as_a_whole(tmp_path: Path) -> None:
    day = "2026-05-0{}T00:00:00Z".format
    given = [
        pair("a:1", "A", "B", rater="x", timestamp=day(1)),
        pair("a:2", "B", "A", rater="x", timestamp=day(2)),
        pair("a:3", "B", "A", rater="y", timestamp=day(3)),
        pair("a:4", "B", "A", rater="y", timestamp=day(3)),
        pair("a:5", "A", "C", rater="x", timestamp=day(1)),
        *rows(thumb("a:6", completion="A", rater="x", timestamp=day(4), desirable=False)),
    ]
    report, table = imported(tmp_path, given)
    assert compared([row for row in table if row["pair_id"]]) == [("A", "C"), ("B", "A"), ("B", "A")]
    assert {line.reason: line.count for line in report.fates} == {Fate.RATER_EARLIER: 2, Fate.DUPLICATE: 2}
    _, table = imported(tmp_path, given, "repeats.several_raters=majority")
    assert compared([row for row in table if row["pair_id"]]) == [("A", "C"), ("B", "A")]


def test_half_a_pair_takes_the_other_with_it(tmp_path: Path) -> None:
    given = [pair("a:1", "A", "x" * 99), pair("a:2", "mail a@b.org", "mail c@d.org"), pair("a:3", "A", "B")]
    report, table = imported(tmp_path, given, "max_characters=60", "personal_data=redact")
    assert compared(table) == [("A", "B")]
    assert {line.reason: (line.count, line.rows) for line in report.reasons} == {
        Reason.TOO_LARGE: (1, 1),
        Reason.OTHER_HALF: (1, 0),
        Reason.ONE_ANSWER: (2, 1),
    }


def test_plain_prompts_become_messages_where_others_are(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "What is 1+1?"}]
    plain, mixed = rows(thumb(rater="x")), rows(thumb(rater="x"), thumb(prompt=chat, rater="y"))
    report, table = imported(tmp_path, plain)
    assert table[0]["prompt"] == "What is 1+1?" and report.made_chat == 0
    report, table = imported(tmp_path, mixed)
    assert [row["prompt"] for row in table] == [chat, chat]
    assert (report.made_chat, report.prompts) == (1, 1)
    assert is_chat(from_collected(str(tmp_path / "thumbs.parquet"), None))
    _, table = imported(tmp_path, plain, "prompt_form=chat")
    assert table[0]["prompt"] == chat


def test_single_messages_become_text_where_that_is_asked_for(tmp_path: Path) -> None:
    one = [{"role": "user", "content": "What is 1+1?"}]
    told = [{"role": "system", "content": "Be brief."}, *one]
    given = rows(thumb("a:1", prompt=one), thumb("a:2", prompt=told), thumb("a:3", prompt="Why?"))
    report, table = imported(tmp_path, given, "prompt_form=text")
    assert sorted(row["prompt"] for row in table) == ["What is 1+1?", "Why?"]
    assert [(line.reason, line.places) for line in report.reasons] == [(Reason.NO_SINGLE_TURN, ["a:2: 2 messages"])]
    assert not is_chat(from_collected(str(tmp_path / "thumbs.parquet"), None))


@pytest.mark.parametrize(
    ("group_by", "group"), [("model", "m"), ("rater", "unknown"), ("signal", "thumb"), ("none", "thumbs")]
)
def test_the_group_is_what_is_asked_for(tmp_path: Path, group_by: str, group: str) -> None:
    _, table = imported(tmp_path, rows(thumb("b:3", model="m")), f"group_by={group_by}")
    (row,) = table
    assert (row["group"], row["model"], row["signal"], row["where"], row["rater"]) == (group, "m", "thumb", "b:3", None)


def test_large_texts_and_odd_characters_are_taken_or_counted(tmp_path: Path) -> None:
    given = [
        *rows(
            thumb("a:1", completion="x" * 10_000_000),
            thumb("a:2", completion="nul \0 and \x1b[31m and \u202e"),
            thumb("a:3", completion="half \ud800"),
            thumb("caf\udce9:4", prompt="\ud83d", completion="y"),
            thumb("a:5", rater="r\0r", model="<script>"),
        ),
        Row(),
    ]
    report, table = imported(tmp_path, given)
    assert {row["completion"] for row in table} == {"nul \0 and \x1b[31m and \u202e", "Two"}
    assert {line.reason: (line.count, line.rows) for line in report.reasons} == {
        Reason.TOO_LARGE: (1, 1),
        Reason.NOT_STORABLE: (2, 2),
        Reason.UNREADABLE: (1, 1),
    }
    _, table = imported(tmp_path, given, "max_characters=20000000", "personal_data=ignore")
    assert max(len(row["completion"]) for row in table) == 10_000_000


def test_nothing_to_take_says_why(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"invented: none of 1 rows gives an example\. 1 times no thumb.*\(a:9\)"):
        imported(tmp_path, [NOTHING])
    with pytest.raises(LabError, match="there is no row in it"):
        imported(tmp_path, [])
    with pytest.raises(LabError, match="leave no example"):
        tie = rows(thumb(rater="x"), thumb(rater="y", desirable=False))
        imported(tmp_path, tie, "repeats.several_raters=drop")
    assert not list(tmp_path.iterdir()), "no part of a table, and nothing of the staging"


def test_batches_are_written_as_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        row
        for n in range(30)
        for row in rows(thumb(prompt=f"p{n}", rater="x"), thumb(prompt=f"p{n}", rater="x", timestamp="2026-01-01"))
        + rows(*(thumb(prompt=f"p{n}", rater=name) for name in "yz" if n % 3 == 0))
    ]
    words = ["repeats.one_rater=all", "repeats.several_raters=majority"]
    _, whole = imported(tmp_path, given, *words)
    monkeypatch.setattr(writing, "BATCH", 7)
    _, parts = imported(tmp_path, given, *words)
    assert whole == parts
    assert pq.ParquetFile(tmp_path / "thumbs.parquet").num_row_groups > 3
    assert len({row["example_id"] for row in parts}) == len(parts)


# An import takes a tenth of a second: a failing example is shown as it is found.
QUICK = hypothesis_settings(
    deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)
THUMBS = st.builds(
    lambda **changes: thumb(**changes),
    prompt=st.sampled_from(["p", "q", "", [{"role": "user", "content": "p"}], [{"role": "assistant", "content": "p"}]]),
    completion=st.sampled_from(["a", "b", " ", "half \ud800", "x" * 100, "mail a@b.org"]),
    desirable=st.booleans(),
    rater=st.sampled_from([None, "x", "y@z.org"]),
    timestamp=st.sampled_from([None, "2026-05-01T00:00:00Z", "2026-05-01T00:00:00.5Z", "nonsense"]),
    signal=st.sampled_from(["thumb", "copied"]),
    model=st.sampled_from([None, "m"]),
    identity=st.sampled_from([None, "i", "j"]),
    unread_time=st.sampled_from([None, "'soon'"]),
)
PAIRS = st.tuples(THUMBS, st.sampled_from(["a", "b", "c", " "])).map(
    lambda both: Row(
        tuple(
            dataclasses.replace(both[0], pair="one", desirable=side, completion=both[0].completion if side else both[1])
            for side in (True, False)
        )
    )
)
ROWS = st.lists(
    st.one_of(
        st.lists(THUMBS, min_size=1, max_size=3).map(lambda given: Row(thumbs=tuple(given))),
        THUMBS.map(lambda given: Row(thumbs=(given,), left_out=NOTHING.left_out)),
        PAIRS,
        st.just(NOTHING),
        st.just(Row()),
    ),
    max_size=12,
)
WORDS = st.tuples(
    st.sampled_from(["last", "majority", "all", "drop"]).map("repeats.one_rater={}".format),
    st.sampled_from(["last", "majority", "all", "drop"]).map("repeats.several_raters={}".format),
    st.sampled_from(["duplicates.exact=keep", "duplicates.exact=drop"]),
    st.sampled_from(["duplicates.anonymous=keep", "duplicates.anonymous=drop"]),
    st.sampled_from(["duplicates.near_threshold=null", "duplicates.near_threshold=0.5"]),
    st.sampled_from(["duplicates.near=drop", "duplicates.near=report"]),
    st.sampled_from(["personal_data=report", "personal_data=redact", "personal_data=ignore"]),
)


@hypothesis_settings(QUICK, max_examples=40)
@given(ROWS, WORDS)
def test_no_row_and_no_thumb_is_lost(given: list[Row], words: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            report, table = imported(Path(folder), given, *words, "max_characters=50")
        except LabError:
            return
        taken = sum(line.rows or 0 for line in report.reasons) + report.rows_taken
        assert taken == report.rows == len(given)
        assert report.thumbs == sum(len(row.thumbs) for row in given)
        assert report.thumbs - report.refused == len(table) + sum(line.count for line in report.fates)
        assert report.examples == len(table) == len({row["example_id"] for row in table})
        compared([row for row in table if row.get("pair_id")])
        from_collected(str(Path(folder) / "thumbs.parquet"), None)


@hypothesis_settings(QUICK, max_examples=15)
@given(ROWS, WORDS, st.randoms(use_true_random=False))
def test_where_times_differ_the_order_of_the_rows_says_nothing(
    given: list[Row], words: tuple[str, ...], rng: random.Random
) -> None:
    numbers = iter(range(100))
    timed = [
        Row(tuple(thumb(**{**vars(one), "timestamp": f"2026-05-01T00:00:{next(numbers):02}Z"}) for one in row.thumbs))
        for row in given
    ]
    mixed = list(timed)
    rng.shuffle(mixed)
    found: list[Any] = []
    for order in (timed, mixed):
        with tempfile.TemporaryDirectory() as folder:
            try:
                _, table = imported(Path(folder), order, *words, "max_characters=50")
            except LabError:
                table = []
            found.append(sorted(table, key=lambda row: row["example_id"]))
    assert found[0] == found[1]
