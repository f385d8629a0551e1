"""Thumbs in a database: SQLite or PostgreSQL, by the user's own SELECT.

The query is one SELECT, on a read-only connection: SQLite opens the file with `mode=ro` and `query_only`, and neither
attaches another (ATTACH, VACUUM INTO) nor changes a setting; PostgreSQL declares the query as a cursor in a READ ONLY
transaction, whatever it says. Values come in as bound parameters (`:name`) only. Rows are fetched
as they are read. The URL may hold a password: it is never shown or logged, and is best kept in an environment variable.
"""

import decimal
import os
import re
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from kto_lab.errors import LabError
from kto_lab.feedback.layout import Settings, no_column
from kto_lab.feedback.paths import steps_of
from kto_lab.feedback.rows import Raw, Unreadable
from kto_lab.importing.exports.mapped import Survey, mapped, mapped_rows
from kto_lab.importing.thumbs import Note, Row

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

_BATCH = 500
# What no query of SQLite may do, beside changing the database, which is open for reading only: make other files, as
# VACUUM INTO does by attaching one, and change settings. To name what it may do would leave out json_each and the like,
# which declare tables of their own.
_REFUSED = {
    sqlite3.SQLITE_ATTACH,
    sqlite3.SQLITE_CREATE_TEMP_TABLE,
    sqlite3.SQLITE_CREATE_VTABLE,
    sqlite3.SQLITE_PRAGMA,
}
# Where the header of a SQLite file says how it is written and read, and how it does with a write-ahead log.
_WAL_HEADER, _WAL = slice(18, 20), b"\x02\x02"
# Texts, names and comments of SQL, in which a semicolon ends no statement.
_ASIDE = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$""", re.DOTALL)


class SqlExport:
    """The rows of a query.

    Attributes:
        cut_at: the tool cuts texts at so many characters; None: it does not.
    """

    def __init__(
        self,
        *,
        url: str | None,
        url_variable: str | None,
        query: str,
        parameters: Mapping[str, Any],
        **settings: Unpack[Settings],
    ) -> None:
        """Say which query of which database, and what its columns hold.

        Args:
            url: the database as SQLAlchemy writes it, sqlite:///thumbs.db or postgresql://user@host/name; None to take
                it from `url_variable`.
            url_variable: the environment variable that holds it, or None.
            query: the SELECT.
            parameters: values for its `:name` places.
            settings: see `kto_lab.feedback.layout.layout`.

        Raises:
            LabError: two settings contradict each other.
        """
        self._url, self._url_variable = url, url_variable
        self._query, self._parameters = query, parameters
        self._how, self._survey = mapped(**settings), Survey()
        self.cut_at = settings["cut_at"]

    def read(self) -> Iterator[Row | Note]:
        """One row for each row that the query gives.

        Raises:
            LabError: the database cannot be reached, the query is wrong or would write, or see
                `kto_lab.feedback.survey.surveyed`.
        """
        yield from mapped_rows(self._raws, self._how, self._survey, source="the query")

    def _raws(self) -> Iterator[Raw]:
        from sqlalchemy import text

        if ";" in _ASIDE.sub("", self._query).strip().removesuffix(";"):
            raise LabError("export.query holds more than one statement. Write one SELECT.")
        with _connected(self._address()) as connection:
            result = connection.execute(text(self._query), dict(self._parameters))
            if not result.returns_rows:
                raise LabError("export.query gives no rows. Write a SELECT.")
            names = list(result.keys())
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise LabError(f"export.query gives the column {repeated[0]!r} more than once. Name each with AS.")
            if absent := [
                (name, column)
                for name, column in self._how.columns.items()
                if column not in names and steps_of(column)[0] not in names
            ]:
                raise no_column("the query", *absent[0], names, node="export")
            number = 0
            for batch in result.partitions(_BATCH):
                for row in batch:
                    number += 1
                    yield f"query, row {number}", _readable(dict(zip(names, row, strict=True)))

    def _address(self) -> "URL":
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        if (self._url is None) == (self._url_variable is None):
            raise LabError("export.url and export.url_variable: give one of the two.")
        url = self._url if self._url_variable is None else os.environ.get(self._url_variable)
        if not url:
            raise LabError(
                f"The environment variable {self._url_variable} is empty. Put the URL of the database into it."
            )
        try:
            return make_url(url)
        except (ArgumentError, ValueError):
            # Not the library's own words: they repeat the URL.
            raise LabError("export.url is no URL of a database, such as sqlite:///thumbs.db.") from None


@contextmanager
def _connected(url: "URL") -> "Iterator[Connection]":
    """A read-only connection; what goes wrong on it as an error for a person, without the password."""
    from sqlalchemy.exc import SQLAlchemyError

    engine = _engine(url)
    try:
        with engine.connect() as connection:
            # Only now: SQLAlchemy asks for settings of SQLite as it connects.
            if isinstance(own := connection.connection.driver_connection, sqlite3.Connection):
                own.set_authorizer(_authorize)
            # A cursor on the server, fetched in batches.
            yield connection.execution_options(yield_per=_BATCH)
    except (SQLAlchemyError, UnicodeDecodeError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        if url.password:
            cause = cause.replace(str(url.password), "***")
        shown = url.render_as_string(hide_password=True)
        raise LabError(f"{shown}: {cause}. Check the URL, the query and its parameters; it can only read.") from None
    finally:
        engine.dispose()


def _engine(url: "URL") -> "Engine":
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    kind = url.get_backend_name()
    if kind == "sqlite":
        file = Path(url.database or "").expanduser()
        if not file.is_file():
            raise LabError(f"export.url: there is no database {url.database}. Give the path of a SQLite file.")
        address = f"{file.resolve().as_uri()}?mode=ro{'&immutable=1' if _is_at_rest(file) else ''}"
        return create_engine("sqlite://", creator=lambda: _opened(address), hide_parameters=True, poolclass=NullPool)
    if kind != "postgresql":
        raise LabError(f"export.url is a {kind} database; sqlite and postgresql can be opened for reading only.")
    own = url.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(own, hide_parameters=True, poolclass=NullPool)
    except ModuleNotFoundError as error:
        raise LabError(f"PostgreSQL needs the package {error.name}: pip install 'psycopg[binary]'.") from error
    return engine.execution_options(postgresql_readonly=True)


def _is_at_rest(file: Path) -> bool:
    """Whether a database is written by way of a write-ahead log, and nobody has it open.

    To read such a one SQLite would make a log beside it, unless the file is said to be immutable. No other may be: of
    one that is in use the log holds rows, and one without a log is kept from changing by a lock while it is read.
    """
    with file.open("rb") as handle:
        header = handle.read(_WAL_HEADER.stop)
    return header[_WAL_HEADER] == _WAL and not Path(f"{file}-wal").exists()


def _opened(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    # A text that is no UTF-8 spoils its own row, not the query.
    connection.text_factory = bytes
    return connection


def _authorize(action: int, *_: str | None) -> int:
    """SQLite's question of each thing that a query would do."""
    return sqlite3.SQLITE_DENY if action in _REFUSED else sqlite3.SQLITE_OK


def _readable(row: dict[str, Any]) -> dict[str, Any] | Unreadable:
    """The row with numbers and texts as Python has them."""
    plain: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, (bytes, memoryview)):
            try:
                plain[name] = bytes(value).decode()
            except UnicodeDecodeError:
                return Unreadable("this is no UTF-8 text")
        elif isinstance(value, decimal.Decimal):
            plain[name] = float(value)
        else:
            plain[name] = str(value) if isinstance(value, uuid.UUID) else value
    return plain
