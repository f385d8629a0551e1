"""Whatever an export holds: a row is taken or has its reason and place, the whole may be refused, and nothing else."""

import copy
import csv
import io
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kto_lab.errors import LabError
from kto_lab.feedback.row_values import ROLES
from kto_lab.feedback.whole import READ
from kto_lab.importing.thumbs import Reason, Row
from tests.importing.exports.export_cases import read

FIXTURES = Path(__file__).parent / "fixtures"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")
# Each option, the setting of each of its files, and the fixture that lies there; the first file is the one with rows.
JSON_EXPORTS: dict[str, dict[str, str]] = {
    "open_webui": {"path": "open_webui.json"},
    "langfuse": {
        "scores": "langfuse_scores.jsonl",
        "observations": "langfuse_observations.jsonl",
        "traces": "langfuse_traces.jsonl",
    },
    "langsmith": {"feedback": "langsmith_feedback.jsonl", "runs": "langsmith_runs.jsonl"},
    "argilla": {"path": "argilla.json"},
    "label_studio": {"path": "label_studio.json"},
    "arena": {"path": "arena.jsonl"},
    "chat_log": {"path": "chat_log.jsonl"},
    "chat_log with events": {"events": "chat_log_events.jsonl", "path": "chat_log.jsonl"},
    "file": {"path": "thumbs.jsonl"},
}
# Whatever numbers come, it is known what they mean: else the whole is refused.
RATED = {"up_from": 1, "down_to": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "open_webui": {"signals": {"regenerated": False, "passed_over": False}},
    "chat_log": {"signals": {"regenerated": False, "copied": True}, **RATED},
    "file": {"columns": {"rater": "who", "timestamp": "when", "id": "id"}, **RATED},
    **dict.fromkeys(("langfuse", "langsmith", "argilla", "label_studio", "sql"), RATED),
}
THUMBS = [
    {"prompt": "Hi", "completion": "Ho", "label": "up", "who": "ann", "when": 1777627800, "id": 1},
    {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": "No",
        "label": 0,
        "who": None,
        "when": "2026-05-01",
        "id": 2,
    },
]
FUZZ = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 10**30, 1777627800, 1777627800000])
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(["", " ", "null", "[]", "{}", '[{"role": 1}]', "2026-05-01 09:30", "assistant", "\ud800", "\0"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "messages", "id", "chat", "value"]) | st.text(max_size=4),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def rows_of_fixture(name: str) -> list[Any]:
    if name == "thumbs.jsonl":
        return copy.deepcopy(THUMBS)
    text = (FIXTURES / name).read_text()
    if name.endswith(".json"):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def written(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))


def read_safely(option: str, **changes: Any) -> list[Row] | None:
    """The rows, each checked; None where the whole is refused."""
    name = option.split(" ")[0]
    try:
        rows = read(name, **{**SETTINGS.get(name, {}), **changes})
    except LabError as error:
        assert str(error)
        return None
    for row in rows:
        assert row.thumbs or row.left_out
        for one in row.left_out:
            assert one.where and isinstance(one.reason, Reason) and len(one.detail) < 200
        for thumb in row.thumbs:
            assert_completion(thumb.completion)
            assert isinstance(thumb.desirable, bool)
            assert thumb.where and thumb.signal and isinstance(thumb.finished, bool)
            assert thumb.timestamp is None or TIME.fullmatch(thumb.timestamp)
            assert all(value is None or isinstance(value, str) for value in (thumb.rater, thumb.model))
            assert_prompt(thumb.prompt)
    return rows


def assert_prompt(prompt: Any) -> None:
    if isinstance(prompt, str):
        assert prompt.strip()
        return
    assert prompt and prompt[-1]["role"] != "assistant"
    for turn in prompt:
        assert_message(turn)


def assert_completion(completion: Any) -> None:
    if isinstance(completion, str):
        assert completion.strip()
    else:
        assert_message(completion)
        assert completion["role"] == "assistant"


def assert_message(message: Mapping[str, Any]) -> None:
    assert {"role", "content"} <= set(message) <= {*READ, "tools"} and message["role"] in ROLES
    assert all(isinstance(value, str) for value in message.values())


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    """The ways to every value within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*here, key)
        yield from places(inner, (*here, key))


def changed(data: st.DataObject, rows: list[Any]) -> None:
    """Put other values where some are, or take them away."""
    for _ in range(data.draw(st.integers(1, 3))):
        ways = [way for way in places(rows) if len(way) > 1]
        if not ways:
            return
        *way, last = data.draw(st.sampled_from(ways))
        holder = rows
        for key in way:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = data.draw(VALUES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("option", JSON_EXPORTS)
@given(data=st.data())
@FUZZ
def test_no_value_is_too_strange_and_no_row_is_lost(option: str, folder: Path, data: st.DataObject) -> None:
    files = JSON_EXPORTS[option]
    counts = []
    for name in files.values():
        rows = rows_of_fixture(name)
        changed(data, rows)
        rows += data.draw(st.lists(st.sampled_from(rows), max_size=1))
        written(folder / name, rows)
        counts.append(len(rows))
    found = read_safely(option, **{key: str(folder / name) for key, name in files.items()})
    if found is None:
        assert option == "file", "only a table can lack a column"
    else:
        assert len(found) == counts[0]


@pytest.mark.parametrize("option", JSON_EXPORTS)
@given(data=st.data())
@FUZZ
def test_no_bytes_are_too_broken(option: str, folder: Path, data: st.DataObject) -> None:
    files = JSON_EXPORTS[option]
    for name in files.values():
        written(folder / name, rows_of_fixture(name))
        (folder / name).write_bytes(damaged(data, (folder / name).read_bytes()))
    read_safely(option, **{key: str(folder / name) for key, name in files.items()})


def damaged(data: st.DataObject, content: bytes) -> bytes:
    begin = data.draw(st.integers(0, len(content)))
    end = data.draw(st.sampled_from([begin, begin + 1, begin + 7, len(content)]))
    noise = data.draw(
        st.binary(max_size=6) | st.sampled_from([b'"', b"[", b"]", b"}{", b"\\", b"\xe9", b"\n", b"[" * 5000])
    )
    return content[:begin] + noise + content[end:]


def deep(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("option", JSON_EXPORTS)
@pytest.mark.parametrize("what", ["large", "deep", "deeper", "odd"])
def test_large_and_deep_values_neither_crash_nor_hang(option: str, what: str, tmp_path: Path) -> None:
    files = JSON_EXPORTS[option]
    first, count = next(iter(files.values())), 0
    for name in files.values():
        rows = rows_of_fixture(name)
        odd = {"large": "x" * 10**7, "deep": deep(400), "deeper": "DEEP", "odd": "\ud800\0"}[what]
        for number in range(len(rows[0])):
            # One row for each of the first row's values, which is replaced.
            row = copy.deepcopy(rows[0])
            row[list(row)[number]] = odd
            rows.append(row)
            if what == "large" and number == 3:
                break
        count = len(rows) if name == first else count
        written(tmp_path / name, rows)
        if what == "deeper":
            text = (tmp_path / name).read_text()
            (tmp_path / name).write_text(text.replace('"DEEP"', "[" * 50_000 + "]" * 50_000))
    found = read_safely(option, **{key: str(tmp_path / name) for key, name in files.items()})
    assert found is not None and len(found) >= count


@given(data=st.data())
@FUZZ
def test_a_csv_of_any_cells_gives_a_row_for_each(folder: Path, data: st.DataObject) -> None:
    cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
        ["up", "0", '"', "\n", "[{}]"]
    )
    rows = data.draw(st.lists(st.lists(cells, min_size=3, max_size=3), max_size=6))
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["prompt", "completion", "label"], *rows])
    (folder / "any.csv").write_bytes(text.getvalue().encode())
    found = read_safely("file", path=str(folder / "any.csv"), columns={"rater": None, "timestamp": None, "id": None})
    empty = any(not any(cell.strip() for cell in column) for column in list(zip(*rows, strict=True))[:2])
    assert found is None if empty else found is not None and len(found) == len(rows)


@given(data=st.data())
@FUZZ
def test_a_broken_csv_or_parquet_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    columns = {"rater": None, "timestamp": None, "id": None}
    table = [{"prompt": "Hi", "completion": "Ho", "label": 1}] * 50
    pq.write_table(pa.Table.from_pylist(table), folder / "whole.parquet")
    whole = {
        "broken.parquet": (folder / "whole.parquet").read_bytes(),
        "broken.csv": b"prompt,completion,label\n" + b'Hi,"Ho\nho",up\n' * 5,
    }
    for name, content in whole.items():
        (folder / name).write_bytes(damaged(data, content))
        read_safely("file", path=str(folder / name), columns=columns)


@given(rows=st.lists(st.tuples(SCALARS, SCALARS, SCALARS, SCALARS), max_size=5))
@FUZZ
def test_a_database_of_any_values_gives_a_row_for_each(folder: Path, rows: list[tuple[Any, ...]]) -> None:
    file = folder / "any.db"
    file.unlink(missing_ok=True)
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE thumbs (prompt, completion, label, id)")
        connection.executemany("INSERT INTO thumbs VALUES (?, ?, ?, ?)", [tuple(map(storable, row)) for row in rows])
    connection.close()
    found = read_safely("sql", url=f"sqlite:///{file}", query="SELECT * FROM thumbs", columns={"id": "id"})
    readable = [row for row in rows if all(map(encodable, row))]
    empty = any(all(cell is None for cell in column) for column in list(zip(*readable, strict=True))[:2])
    assert found is None if empty else found is not None and len(found) == len(rows)


def encodable(value: Any) -> bool:
    """Whether a value is no text of half characters, which would spoil its row."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(value: Any) -> Any:
    """A value that SQLite can hold."""
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value


def test_the_fixtures_themselves_give_thumbs_and_reasons() -> None:
    for option, files in JSON_EXPORTS.items():
        if option != "file":
            rows = read_safely(option, **{key: str(FIXTURES / name) for key, name in files.items()})
            assert rows and any(row.thumbs for row in rows) and any(row.left_out for row in rows)
