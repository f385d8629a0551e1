"""`kto-lab feedback import`, from rows in memory and from a file."""

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
from invented import imported, rows, thumb
from small_runs import write_jsonl

from kto_lab import cli
from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.table import build_table, fingerprint, is_chat
from kto_lab.importing import writing
from kto_lab.importing.thumbs import LeftOut, Reason, Row

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
)
ROWS = st.lists(
    st.one_of(
        st.lists(THUMBS, min_size=1, max_size=3).map(lambda given: Row(thumbs=tuple(given))),
        THUMBS.map(lambda given: Row(thumbs=(given,), left_out=NOTHING.left_out)),
        st.just(NOTHING),
        st.just(Row()),
    ),
    max_size=12,
)
WORDS = st.tuples(
    st.sampled_from(["last", "majority", "all", "drop"]).map("repeats.one_rater={}".format),
    st.sampled_from(["last", "majority", "all", "drop"]).map("repeats.several_raters={}".format),
    st.sampled_from(["duplicates.exact=keep", "duplicates.exact=drop"]),
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
