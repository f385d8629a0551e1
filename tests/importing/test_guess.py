"""`kto-lab feedback import path=FILE`: what a file seems to be, what is shown of it, and what is asked for."""

import csv
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from kto_lab import cli
from kto_lab.errors import LabError
from kto_lab.feedback.layout import DEFAULT_COLUMNS
from kto_lab.feedback.rows import Raw
from kto_lab.importing.command import import_feedback
from kto_lab.importing.exports import file as file_export
from kto_lab.importing.guess import option_config
from kto_lab.importing.known import TOOLS
from kto_lab.importing.preview import LOOKED_AT, first_of
from kto_lab.importing.thumbs import Row
from tests.small_runs import composed, write_jsonl

EXPORTS = Path(__file__).parent / "exports" / "fixtures"
THUMBS = [{"prompt": f"{n}+{n}=", "completion": str(2 * n), "label": n % 2 == 0} for n in range(1, 25)]


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["kto-lab", "feedback", "import", *words])
    cli.main()


def renamed(**names: str) -> list[dict[str, Any]]:
    return [{names[key]: value for key, value in row.items()} for row in THUMBS]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "option", "version"),
    [
        ("arena.jsonl", "arena", "2023"),
        ("argilla.json", "argilla", "2"),
        ("chat_log.jsonl", "chat_log", None),
        ("label_studio.json", "label_studio", "1"),
        ("open_webui.json", "open_webui", "0.12"),
    ],
)
def test_the_export_of_a_tool_is_known_by_its_columns(
    name: str, option: str, version: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export.labels={scrolled: null, hm: null}"] if option in ("argilla", "chat_log") else []
    assert import_feedback(composed([f"path={EXPORTS / name}", *words], name="import")) is None
    said = capsys.readouterr().out
    assert f"{TOOLS[option].name}" in said and f"export={option}" in said
    assert version is None or f"version {version}" in said
    assert "told by" in said and "read as" in said and "rows as they are read" in said and "Nothing is written" in said


def test_a_preview_and_the_import_share_one_look_at_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**THUMBS[n % 24], "time": f"{n % 28 + 1:02d}/02/2026"} for n in range(LOOKED_AT + 100)]
    write_jsonl(tmp_path / "thumbs.jsonl", rows)
    whole, ended = file_export.read_rows, []

    def counted(*words: Any, **more: Any) -> Iterator[Raw]:
        yield from whole(*words, **more)
        ended.append(words)

    monkeypatch.setattr(file_export, "read_rows", counted)
    node = option_config("file")
    node.path, node.columns = str(tmp_path / "thumbs.jsonl"), {**DEFAULT_COLUMNS, "timestamp": "time"}
    export = instantiate(node)
    assert "read as up" in first_of(export).notes[0]
    found = [row.thumbs[0].timestamp for row in export.read() if isinstance(row, Row)]
    assert found == [f"2026-02-{n % 28 + 1:02d}T00:00:00Z" for n in range(LOOKED_AT + 100)]
    # One to look, and one to read.
    assert len(ended) == 2


def test_an_answer_that_is_a_call_of_a_tool_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    asked = {"role": "user", "content": "Weather?"}
    write_jsonl(tmp_path / "calls.jsonl", [{"messages": [asked, answer], "label": label} for label in (True, False)])
    import_feedback(composed([f"path={tmp_path / 'calls.jsonl'}"], name="import"))
    said = "".join(capsys.readouterr().out.split())
    assert "user:Weather?" in said and 'weather({"city":"Oslo"})' in said


@pytest.mark.parametrize("name", ["langfuse_scores.jsonl", "langsmith_feedback.jsonl"])
def test_a_tool_that_needs_a_second_file_asks_for_it(name: str) -> None:
    with pytest.raises(LabError, match=r"not complete.*export=lang\w+ export\.(scores|feedback)=.*FILE"):
        import_feedback(composed([f"path={EXPORTS / name}"], name="import"))


def test_a_table_is_read_by_the_names_of_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = renamed(prompt="User Message", completion="answer", label="thumb")
    with Path("log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "user_id", "team", "empty"])
        writer.writeheader()
        writer.writerows({**row, "user_id": f"u{number}", "team": "blue"} for number, row in enumerate(rows))
    command(monkeypatch, "path=log.csv", "output=thumbs.parquet")
    report = json.loads(Path("thumbs.import_report.json").read_text())
    fates = {column["name"]: (column["fate"], column["what"]) for column in report["origin"]["columns"]}
    assert fates["User Message"] == ("read", "prompt") and fates["answer"] == ("read", "answer")
    assert fates["thumb"] == ("read", "thumb") and fates["user_id"] == ("read", "rater")
    assert "'export.columns.prompt=User Message'" in " ".join(capsys.readouterr().out.split())
    assert fates["team"][0] == "unknown" and fates["empty"][0] == "ignored"
    assert report["guessed"]["told_by"] == ["User Message", "answer", "thumb"]
    assert report["examples"] == len(rows)


def test_what_rows_cannot_tell_is_asked_for_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stars = [{**row, "label": 1 + number % 5} for number, row in enumerate(THUMBS)]
    words = [{**row, "label": ("yes", "no", "meh")[number % 3]} for number, row in enumerate(THUMBS)]
    dates = [{**row, "created": "04/03/2026 10:00"} for row in THUMBS]
    for rows, asked, answer in [
        (stars, "export.up_from", ["export.up_from=4", "export.down_to=2"]),
        (words, "export.labels={'meh': null}", ["export.labels={'meh': null}"]),
        (dates, "export.day_first", ["export.day_first=true"]),
    ]:
        write_jsonl(tmp_path / "log.jsonl", rows)
        with pytest.raises(LabError) as refused:
            import_feedback(composed(["path=log.jsonl", "output=t.parquet"], name="import"))
        assert asked in str(refused.value)
        assert not list(tmp_path.glob("t.*")), "nothing is written before it is settled"
        command(monkeypatch, "path=log.jsonl", "output=t.parquet", *answer)
        for file in tmp_path.glob("t.*"):
            file.unlink()


def test_a_file_without_thumbs_names_its_columns(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{"colour": "red", "size": 3}])
    with pytest.raises(LabError, match=r"no column looks like.*colour, size.*export\.columns\.prompt"):
        import_feedback(composed([f"path={tmp_path / 'x.jsonl'}"], name="import"))
    write_jsonl(tmp_path / "y.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(LabError, match=r"looks like the label.*export\.columns\.label="):
        import_feedback(composed([f"path={tmp_path / 'y.jsonl'}"], name="import"))


def test_path_stands_for_the_file_of_a_named_reader_and_for_no_other(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", THUMBS)
    output = f"output={tmp_path / 'x.parquet'}"
    import_feedback(composed(["export=file", f"path={tmp_path / 'x.jsonl'}", output], name="import"))
    assert json.loads((tmp_path / "x.import_report.json").read_text())["guessed"] is None
    with pytest.raises(LabError, match=r"both are set"):
        import_feedback(composed(["export=file", "path=a", "export.path=b"], name="import"))
    with pytest.raises(LabError, match=r"export=sql reads none"):
        import_feedback(composed(["export=sql", "path=a"], name="import"))


@pytest.mark.parametrize("given", ["guessed", "named"])
def test_an_import_runs_again_from_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.chdir(tmp_path)
    rows = renamed(prompt="question", completion="answer", label="stars")
    rows = [{**row, "stars": 1 + number % 5, "created": "15.03.2026"} for number, row in enumerate(rows)]
    write_jsonl(tmp_path / "log.jsonl", rows)
    columns = "{prompt: question, completion: answer, label: stars, timestamp: created}"
    named = ["export=file", f"export.columns={columns}"] if given == "named" else []
    settings = ["export.up_from=4", "export.down_to=2", "held_out=0.5", "repeats.several_raters=majority"]
    command(monkeypatch, "path=log.jsonl", "output=one/t.parquet", *settings, *named)
    report = json.loads(Path("one/t.import_report.json").read_text())
    assert (report["settled"]["up_from"], report["settled"]["down_to"]) == (4, 2)
    assert report["settled"]["day_first"] is True and report["settled"]["timezone"] == "UTC"
    assert (report["guessed"] is None) == (given == "named")
    command(monkeypatch, "from=one/t.import_report.json", "output=two/t.parquet")
    assert digest(Path("one/t.parquet")) == digest(Path("two/t.parquet"))
    again = json.loads(Path("two/t.import_report.json").read_text())
    assert again["request"] == report["request"] and again["origin"] == report["origin"]
    # A key that is set wins over the report's.
    write_jsonl(tmp_path / "june.jsonl", rows[:10])
    command(monkeypatch, "from=one/t.import_report.json", "path=june.jsonl", "held_out=0", "output=june/t.parquet")
    june = json.loads(Path("june/t.import_report.json").read_text())
    assert (june["rows"], june["settings"]["held_out"], june["request"]["settings"]["path"]) == (10, 0, "june.jsonl")


def test_a_report_names_a_reader_and_never_code(tmp_path: Path) -> None:
    request = {"export": "../../evil", "settings": {"_target_": "os.system", "path": "x"}}
    (tmp_path / "r.json").write_text(json.dumps({"request": request}))
    with pytest.raises(LabError, match=r"There is no export=\.\./\.\./evil"):
        import_feedback(composed([f"from={tmp_path / 'r.json'}"], name="import"))
    (tmp_path / "r.json").write_text(json.dumps({"request": {**request, "export": "file"}}))
    with pytest.raises(LabError, match="_target_"):
        import_feedback(composed([f"from={tmp_path / 'r.json'}"], name="import"))
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(LabError, match="has no `request`"):
        import_feedback(composed([f"from={tmp_path / 'r.json'}"], name="import"))


def test_a_report_keeps_no_url_of_a_database(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "thumbs.db") as database:
        database.execute("CREATE TABLE thumbs (prompt, completion, label)")
        database.executemany("INSERT INTO thumbs VALUES (?, ?, ?)", [tuple(row.values()) for row in THUMBS])
    words = [f"export.url=sqlite:///{tmp_path / 'thumbs.db'}", "export.query=SELECT * FROM thumbs"]
    import_feedback(composed(["export=sql", *words, f"output={tmp_path / 't.parquet'}"], name="import"))
    report = json.loads((tmp_path / "t.import_report.json").read_text())
    assert report["request"]["settings"]["url"] is None and "sqlite://" not in json.dumps(report)
