"""A store on disk for thumbs between reading and writing, so that memory does not grow with their number.

It is a SQLite file in its own folder, deleted when the import ends. Thumbs are appended in the order of the source;
then an index sorts them by prompt and completion, so that what is read back does not depend on that order.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from kto_lab.feedback.whole import MORE, as_text
from kto_lab.importing.repeats import Fate, Given, Settled
from kto_lab.importing.screen import Screened, identity
from kto_lab.importing.thumbs import Completion, Prompt

# SQLite's page cache, in KiB.
CACHE = 32 * 1024
# Thumbs, and characters, that are appended together.
WAITING, WAITING_CHARACTERS = 1000, 4_000_000

_SCHEMA = """
CREATE TABLE thumbs (
    number INTEGER PRIMARY KEY, prompt_key BLOB, completion_key BLOB, time INTEGER, desirable INTEGER, rater TEXT,
    signal TEXT, model TEXT, place TEXT, timestamp TEXT, score REAL, finished INTEGER, length INTEGER, size INTEGER,
    prompt BLOB, completion BLOB, other_key BLOB, identity TEXT, unread TEXT
);
CREATE TABLE examples (position INTEGER PRIMARY KEY, number INTEGER UNIQUE, rater TEXT, ratings TEXT, pair_id TEXT);
CREATE TABLE fates (number INTEGER PRIMARY KEY, fate TEXT);
"""
# The index covers everything that settling reads, so that no row has to be looked up.
_KEYS = "prompt_key, completion_key, other_key"
_ORDER = f"CREATE INDEX by_answer ON thumbs ({_KEYS}, time, number, desirable, rater, signal, identity, unread)"
_EXAMPLES = """
SELECT e.position, t.number, t.prompt_key, t.completion_key, t.place, t.prompt, t.completion, t.desirable, e.rater,
    t.signal, t.model, t.timestamp, t.score, t.finished, e.ratings, e.pair_id, t.size
FROM examples e CROSS JOIN thumbs t ON t.number = e.number
"""


@dataclass(frozen=True)
class Example:
    """A thumb that becomes a row of the table, with its texts.

    Attributes:
        position: its position among the examples.
        number: the thumb's number.
        answer: the key of its prompt and completion.
        where, prompt, completion, desirable, rater, signal, model, timestamp, score, finished: as in `Thumb`; no rater
            where it stands for several.
        ratings, pair_id: see `repeats.Kept`.
        size: characters of prompt and completion.
    """

    position: int
    number: int
    answer: bytes
    where: str
    prompt: Prompt
    completion: Completion
    desirable: bool
    rater: str | None
    signal: str
    model: str | None
    timestamp: str | None
    score: float | None
    finished: bool
    ratings: list[float] | None
    pair_id: str | None
    size: int


class Stage:
    """The thumbs of one import, on disk.

    Attributes:
        thumbs: how many there are.
        chats: how many of them have chat messages as their prompt.
        examples: how many became examples.
        message_keys: what messages of prompts hold beside role and content.
    """

    def __init__(self, file: Path) -> None:
        """Make the file."""
        self.thumbs = self.chats = self.examples = 0
        self.message_keys: set[str] = set()
        self._positions = 0
        self._waiting: list[tuple[Any, ...]] = []
        self._characters = 0
        self._database = sqlite3.connect(file, isolation_level=None)
        # Nothing of the file outlives the import, so nothing is done for its safety.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", f"cache_size=-{CACHE}"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)
        self._database.execute("BEGIN")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def add(self, screened: Screened, other: bytes | None = None) -> None:
        """Append a thumb.

        Args:
            screened: the thumb.
            other: the key of the other answer, where it is half of a pair; see `screen.identity`.
        """
        thumb = screened.thumb
        if not isinstance(thumb.prompt, str):
            self.chats += 1
            self.message_keys.update(key for message in thumb.prompt for key in message if key in MORE)
        row = (
            self.thumbs,
            *identity(thumb.prompt, thumb.completion),
            screened.time,
            thumb.desirable,
            thumb.rater,
            thumb.signal,
            thumb.model,
            thumb.where,
            thumb.timestamp,
            thumb.score,
            thumb.finished,
            len(thumb.completion if isinstance(thumb.completion, str) else as_text(thumb.completion)),
            screened.characters,
            # Bytes: SQLite's own text ends at a NUL.
            json.dumps(thumb.prompt, ensure_ascii=False).encode(),
            json.dumps(thumb.completion, ensure_ascii=False).encode(),
            other,
            thumb.identity,
            thumb.unread_time,
        )
        self._waiting.append(row)
        self.thumbs += 1
        self._characters += screened.characters
        if len(self._waiting) >= WAITING or self._characters >= WAITING_CHARACTERS:
            self._append()

    def sort(self) -> None:
        """Make the thumbs ready to be read back; none may be added after."""
        self._append()
        self._database.execute(_ORDER)

    def answers(self) -> Iterator[list[Given]]:
        """The thumbs on one answer to one prompt at a time, in an order that depends only on the texts.

        Halves of pairs come separately for each answer that they compare it with.
        """
        found = self._database.execute(
            f"SELECT {_KEYS}, number, desirable, rater, time, signal, identity, unread FROM thumbs "
            f"ORDER BY {_KEYS}, time, number"
        )
        for keys, rows in groupby(found, key=lambda row: row[:3]):
            yield [_given(keys, *row[3:]) for row in rows]

    def settle(self, settled: Iterable[Settled]) -> None:
        """Store what becomes of the thumbs on answers: examples, at consecutive positions, and the others' fates."""
        kept: list[tuple[Any, ...]] = []
        fates: list[tuple[int, Fate]] = []
        for examples, others in settled:
            for one in examples:
                ratings = None if one.ratings is None else json.dumps(one.ratings)
                kept.append((self._positions, one.number, one.rater, ratings, one.pair_id))
                self._positions += 1
            fates += others
        self._database.executemany("INSERT INTO examples VALUES (?, ?, ?, ?, ?)", kept)
        self._fate(fates)
        self.examples += len(kept)

    def leave_out(self, examples: Sequence[tuple[int, int]], fate: Fate) -> None:
        """Turn examples, each given by its position and its thumb's number, into thumbs that are left out."""
        self._database.executemany("DELETE FROM examples WHERE position = ?", [(place,) for place, _ in examples])
        self._fate((number, fate) for _, number in examples)
        self.examples -= len(examples)

    def read_examples(self) -> Iterator[Example]:
        """The examples, by position."""
        for row in self._database.execute(f"{_EXAMPLES} ORDER BY e.position"):
            yield _example(row)

    def example(self, position: int) -> Example:
        """The example at a position."""
        return _example(self._database.execute(f"{_EXAMPLES} WHERE e.position = ?", (position,)).fetchone())

    def twins(self, position: int) -> list[tuple[int, int, str | None]]:
        """The examples with the answer and the label of the one at a position, itself among them.

        Returns:
            The position, the thumb's number and the pair of each.
        """
        return self.query(
            "SELECT e.position, e.number, e.pair_id FROM examples o CROSS JOIN thumbs a ON a.number = o.number "
            "CROSS JOIN thumbs t ON t.prompt_key = a.prompt_key AND t.completion_key = a.completion_key "
            "AND t.desirable = a.desirable CROSS JOIN examples e ON e.number = t.number WHERE o.position = ?",
            (position,),
        )

    def messages(self) -> bool:
        """Whether an example's answer is a message that is more than text."""
        found = self.query(f"SELECT 1 FROM ({_EXAMPLES}) WHERE substr(completion, 1, 1) = CAST('{{' AS BLOB) LIMIT 1")
        return bool(found)

    def query(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows that a SQL statement gives; for the few numbers of a report."""
        return self._database.execute(statement, values).fetchall()

    def _append(self) -> None:
        self._database.executemany(f"INSERT INTO thumbs VALUES ({', '.join('?' * 19)})", self._waiting)
        self._waiting, self._characters = [], 0

    def _fate(self, fates: Iterable[tuple[int, Fate]]) -> None:
        self._database.executemany("INSERT INTO fates VALUES (?, ?)", ((number, fate.value) for number, fate in fates))


def _given(
    keys: tuple[bytes, bytes, bytes | None],
    number: int,
    desirable: int,
    rater: str | None,
    time: int | None,
    signal: str,
    identity: str | None,
    unread: str | None,
) -> Given:
    prompt, own, other = keys
    pair = None
    if other is not None:
        chosen, rejected = (own, other) if desirable else (other, own)
        pair = prompt.hex(), chosen.hex(), rejected.hex()
    return Given(number, bool(desirable), rater, time, signal, identity, unread, pair)


def _example(row: tuple[Any, ...]) -> Example:
    position, number, prompt_key, completion_key, where, prompt, completion, desirable, *more = row
    rater, signal, model, timestamp, score, finished, ratings, pair_id, size = more
    return Example(
        position=position,
        number=number,
        answer=prompt_key + completion_key,
        where=where,
        prompt=json.loads(prompt),
        completion=json.loads(completion),
        desirable=bool(desirable),
        rater=rater,
        signal=signal,
        model=model,
        timestamp=timestamp,
        score=score,
        finished=bool(finished),
        ratings=None if ratings is None else json.loads(ratings),
        pair_id=pair_id,
        size=size,
    )
