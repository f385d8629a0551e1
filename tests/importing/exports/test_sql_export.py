import datetime
import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.importing.thumbs import Reason
from tests.importing.exports.export_cases import export_of, read, reasons, thumbs_of

COLUMNS = {"prompt": "question", "completion": "answer", "label": "thumb", "rater": "who", "timestamp": "at"}
ROWS = [
    ("Name a river.", "The Loire.", 1, "ann", "2026-05-01 09:30:00"),
    ("Name a river.", "The moon.", 0, "ben", "2026-05-01 09:31:00"),
    ('[{"role": "user", "content": "Hi"}]', "Ho.", 1, "ann", None),
    ("Name a lake.", None, 1, "ann", None),
]
SELECT = "SELECT question, answer, thumb, who, at FROM thumbs ORDER BY place"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "thumbs.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE thumbs (place INTEGER PRIMARY KEY, question, answer, thumb, who, at)")
        connection.executemany("INSERT INTO thumbs (question, answer, thumb, who, at) VALUES (?, ?, ?, ?, ?)", ROWS)
    connection.close()
    return file


def sql(url: str | None, query: str = SELECT, **changes: Any) -> Any:
    return read("sql", url=url, query=query, columns=COLUMNS, **changes)


def test_a_column_may_be_a_path_into_json(database: Path) -> None:
    columns = {**COLUMNS, "prompt": "question[0].content"}
    rows = read("sql", url=f"sqlite:///{database}", query=f"{SELECT} LIMIT 1 OFFSET 2", columns=columns)
    assert [thumb.prompt for thumb in thumbs_of(rows)] == ["Hi"]
    with pytest.raises(LabError, match=r"no column 'query\[0\]\.content'"):
        read("sql", url=f"sqlite:///{database}", query=SELECT, columns={**COLUMNS, "prompt": "query[0].content"})


def contents(file: Path) -> list[Any]:
    with sqlite3.connect(file) as connection:
        return connection.execute("SELECT * FROM thumbs").fetchall()


def test_rows_of_sqlite_become_thumbs(database: Path) -> None:
    rows = sql(f"sqlite:///{database}")
    first, second, third = thumbs_of(rows)
    assert (first.prompt, first.completion, first.desirable, first.rater) == (
        "Name a river.",
        "The Loire.",
        True,
        "ann",
    )
    assert (first.timestamp, second.desirable) == ("2026-05-01T09:30:00Z", False)
    assert third.prompt == [{"role": "user", "content": "Hi"}]
    assert reasons(rows) == {"query, row 4": Reason.NO_COMPLETION}


def test_values_come_in_as_parameters_only(database: Path) -> None:
    query = f"{SELECT.replace('ORDER', 'WHERE who = :who ORDER')}"
    assert len(sql(f"sqlite:///{database}", query, parameters={"who": "ann"})) == 3
    assert not sql(f"sqlite:///{database}", query, parameters={"who": "x' OR '1'='1"})
    with pytest.raises(LabError, match="who"):
        sql(f"sqlite:///{database}", query)


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM thumbs",
        "DELETE FROM thumbs RETURNING question, answer, thumb, who, at",
        "UPDATE thumbs SET thumb = 0",
        "DROP TABLE thumbs",
        "PRAGMA query_only = OFF",
        f"{SELECT}; DELETE FROM thumbs",
        "SELECT nothing FROM nowhere",
        "nonsense",
        "",
    ],
)
def test_nothing_but_a_select_is_run(database: Path, query: str) -> None:
    before = contents(database)
    with pytest.raises(LabError):
        sql(f"sqlite:///{database}", query)
    assert contents(database) == before


@pytest.mark.parametrize(
    "query",
    [
        "ATTACH '{folder}/new.db' AS other",
        "VACUUM INTO '{folder}/new.db'",
        "VACUUM",
        "PRAGMA journal_mode = WAL",
        "PRAGMA table_info(thumbs)",
        "CREATE TEMP TABLE mine AS SELECT * FROM thumbs",
        "SELECT load_extension('{folder}/new.so')",
    ],
)
def test_a_query_leaves_no_file(database: Path, query: str) -> None:
    before = sorted(database.parent.iterdir())
    with pytest.raises(LabError):
        sql(f"sqlite:///{database}", query.format(folder=database.parent))
    assert sorted(database.parent.iterdir()) == before


@pytest.mark.parametrize("more", ["; SELECT 1", ";;SELECT 1", "; -- two\nSELECT 1", " /* ' */; SELECT 1 /* ' */"])
def test_more_than_one_statement_is_refused(database: Path, more: str) -> None:
    with pytest.raises(LabError, match="more than one statement"):
        sql(f"sqlite:///{database}", SELECT + more)


@pytest.mark.parametrize("more", [";", "; ", " -- a; b", " /* a; b */ ;"])
def test_a_semicolon_that_ends_nothing_is_none(database: Path, more: str) -> None:
    assert len(sql(f"sqlite:///{database}", SELECT + more)) == 4
    assert not sql(f"sqlite:///{database}", SELECT.replace("ORDER", "WHERE who = 'a;b' ORDER"))


def test_a_select_of_any_kind_is_run(database: Path) -> None:
    inner = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3), t AS ({SELECT})"
    query = f"{inner} SELECT upper(question) AS question, answer, thumb, who, at FROM t, n, json_each('[1, 2]')"
    assert len(sql(f"sqlite:///{database}", query)) == 4 * 3 * 2


def test_a_write_ahead_log_is_read_and_none_is_made(database: Path) -> None:
    writer = sqlite3.connect(database)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO thumbs (question, answer, thumb) VALUES ('Name a sea.', 'The Aral Sea.', 1)")
    writer.commit()
    assert database.with_name("thumbs.db-wal").stat().st_size
    assert len(sql(f"sqlite:///{database}")) == 5
    writer.close()
    # At rest.
    before = sorted(database.parent.iterdir())
    assert before == [database]
    assert len(sql(f"sqlite:///{database}")) == 5
    assert sorted(database.parent.iterdir()) == before


def test_a_text_that_is_no_utf8_costs_one_row(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE thumbs SET answer = CAST(x'636166e9' AS TEXT) WHERE place = 2")
    connection.close()
    rows = sql(f"sqlite:///{database}")
    assert [len(row.thumbs) for row in rows] == [1, 0, 1, 0] and reasons(rows)["query, row 2"] is Reason.UNREADABLE


def test_the_url_may_come_from_the_environment(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBS_URL", f"sqlite:///{database}")
    assert len(sql(None, url_variable="THUMBS_URL")) == 4
    monkeypatch.setenv("THUMBS_URL", "")
    with pytest.raises(LabError, match="THUMBS_URL"):
        sql(None, url_variable="THUMBS_URL")
    with pytest.raises(LabError, match="one of the two"):
        sql(None)


def test_a_password_is_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = "s3cr3t-w0rd"
    urls = [
        f"postgresql://ann:{secret}@127.0.0.1:9/nowhere?connect_timeout=2",
        f"mysql://ann:{secret}@127.0.0.1/x",
        f"ann:{secret}@",
    ]
    for url in urls:
        with pytest.raises(LabError) as said:
            sql(url)
        assert secret not in str(said.value) and secret not in caplog.text
        chain = [said.value.__cause__, None if said.value.__suppress_context__ else said.value.__context__]
        assert not any(secret in str(error) for error in chain)
    assert secret not in repr(export_of("sql", url=urls[0], query=SELECT, columns=COLUMNS))


def test_what_is_wrong_with_the_whole_is_said(database: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no database"):
        sql(f"sqlite:///{tmp_path / 'gone.db'}")
    assert not (tmp_path / "gone.db").exists()
    with pytest.raises(LabError, match="no column 'who'"):
        sql(f"sqlite:///{database}", "SELECT question, answer, thumb, at FROM thumbs")
    with pytest.raises(LabError, match="more than once"):
        sql(f"sqlite:///{database}", "SELECT question, answer, thumb, who, at, at FROM thumbs")
    (tmp_path / "text.db").write_text("no database at all, but a text that goes on for a while")
    with pytest.raises(LabError, match="not a database"):
        sql(f"sqlite:///{tmp_path / 'text.db'}")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL server on a socket of its own, for the time of the tests."""
    places = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = next((place for place in places if (place / "initdb").exists()), None)
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    who: dict[str, Any] = {}
    # Not among pytest's folders: those are closed to the user that the server runs as.
    with tempfile.TemporaryDirectory(prefix="kto-lab-postgresql-") as folder:
        if os.geteuid() == 0:
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
            who = {"user": user.pw_uid, "group": user.pw_gid}
            os.chown(folder, user.pw_uid, user.pw_gid)

        def run(program: str, *words: str) -> None:
            words = ("-D", f"{folder}/data", *words)
            subprocess.run(
                [programs / program, *words], check=True, capture_output=True, timeout=120, cwd=folder, **who
            )

        run("initdb", "-U", "ann", "--auth=trust", "-E", "UTF8", "--locale=C")
        run("pg_ctl", "-l", f"{folder}/log", "-w", "-o", f"-k {folder} -c listen_addresses=''", "start")
        try:
            yield f"postgresql://ann@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")


@pytest.mark.slow
def test_rows_of_postgresql_become_thumbs_and_nothing_is_written(server: str) -> None:
    import psycopg

    with psycopg.connect(server) as connection:
        connection.execute("CREATE TABLE thumbs (question jsonb, answer text, thumb boolean, who uuid, at timestamptz)")
        talk = '[{"role": "user", "content": "Hi"}]'
        at = datetime.datetime(2026, 5, 1, 9, 30, tzinfo=datetime.UTC)
        who = "00000000-0000-0000-0000-00000000000a"
        for number in range(1200):
            row = (talk, f"Ho {number}.", number % 2 == 0, who, at)
            connection.execute("INSERT INTO thumbs VALUES (%s, %s, %s, %s, %s)", row)
    select = "SELECT question, answer, thumb, who, at FROM thumbs"
    rows = sql(server, select)
    first = rows[0].thumbs[0]
    assert len(thumbs_of(rows)) == 1200
    assert (first.prompt, first.completion, first.desirable) == ([{"role": "user", "content": "Hi"}], "Ho 0.", True)
    assert (first.rater, first.timestamp) == (who, "2026-05-01T09:30:00Z")
    assert len(sql(server, f"{select} WHERE answer = :answer", parameters={"answer": "Ho 7."})) == 1
    for query in (
        "DELETE FROM thumbs RETURNING question, answer, thumb, who, at",
        f"{select}; COMMIT; DELETE FROM thumbs",
        "WITH gone AS (DELETE FROM thumbs RETURNING *) SELECT question, answer, thumb, who, at FROM gone",
        "SET TRANSACTION READ WRITE",
        "DROP TABLE thumbs",
        f"{select} WHERE nextval('none') > 0",
    ):
        with pytest.raises(LabError):
            sql(server, query)
    with psycopg.connect(server) as connection:
        assert connection.execute("SELECT count(*) FROM thumbs").fetchone() == (1200,)
    with pytest.raises(LabError, match="nobody"):
        sql(server.replace("ann@", "nobody:s3cr3t@"), select)
