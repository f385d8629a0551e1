"""Hashes of values and of files: what identities are made of."""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

_PLAIN = frozenset((str, bool, type(None)))


def content_hash(*parts: Any) -> str:
    """Sixteen hex digits that depend on the content alone (SHA-256 of canonical JSON)."""
    return hashlib.sha256(_canonical(parts)).hexdigest()[:16]


def hashes_of_plain(rows: Iterable[tuple[Any, ...]]) -> bytes:
    """`content_hash` of many rows of strings that UTF-8 can hold, booleans and None: eight bytes per row, joined."""
    sha256, dumps = hashlib.sha256, orjson.dumps
    return b"".join([sha256(dumps(row)).digest()[:8] for row in rows])


def _canonical(parts: tuple[Any, ...]) -> bytes:
    """JSON without spaces, keys sorted. For texts and truths orjson writes the same, ten times as fast."""
    if _PLAIN.issuperset(map(type, parts)):
        try:
            return orjson.dumps(parts)
        except TypeError:  # half a character
            pass
    return json.dumps(_in_order(parts), ensure_ascii=False, separators=(",", ":")).encode()


def _in_order(value: Any) -> Any:
    """A value with every mapping's keys in order; numbers and texts may be keys of one mapping."""
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value, key=lambda key: (type(key).__name__, key))}
    return [_in_order(one) for one in value] if isinstance(value, list | tuple) else value


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_as_it_is(path: Path) -> str:
    """As `sha256_file`; a file that has the size and the time of change that it had before is not read again."""
    about = path.stat()
    return _remembered(path.resolve(), about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=1 << 14)
def _remembered(path: Path, changed: int, size: int) -> str:
    return sha256_file(path)
