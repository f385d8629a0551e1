"""Tables of large files, kept in the cache folder: the next process that reads the files alike maps them into memory.

    tables/<key>.arrow    an Arrow stream, and after it the SHA-256 of its bytes; its time is that of the last use

The key is a hash of what the files hold, of what the places of their rows are called, of every setting by which they
are read, and of the code that reads them. Arrow's schema carries the remarks on the rows, which are made again.
"""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kto_lab import hashing, narration
from kto_lab.errors import LabError
from kto_lab.feedback.on_disk import as_data_set, write_stream
from kto_lab.feedback.rows.files import Files, disk_errors
from kto_lab.files import atomic_path, cache_dir
from kto_lab.hashing import content_hash, sha256_as_it_is, sha256_file
from kto_lab.sealed import SET_ASIDE, DamagedError, recover

# Imported for its type alone: it takes seconds.
if TYPE_CHECKING:
    from datasets import Dataset

FOLDER = "tables"
# Bytes of files. Smaller ones are read in less time than the import of what trains on them takes.
LEAST = 16 * 2**20
# Bytes of all tables: those that were used longest ago make room.
MOST = 20 * 2**30
_ABOUT = b"kto_lab"
_DIGEST = hashlib.sha256().digest_size

_logger = logging.getLogger("kto_lab.feedback")


@dataclass(frozen=True)
class KeptTable:
    """A table in the cache folder.

    Attributes:
        path: its file.
        source: what it was read from; "" where that cannot be told.
        size: bytes.
        last_used: seconds since the epoch.
    """

    path: Path
    source: str
    size: int
    last_used: float


def kept(files: Files, settings: Mapping[str, Any], make: Callable[[], "Dataset"]) -> "Dataset":
    """The table of files: the one that is kept, or else a new one, which is then kept where the files are large.

    A damaged one is set aside and made again.

    Args:
        files: what is read.
        settings: everything else that the table depends on.
        make: reads them.

    Raises:
        LabError: the files cannot be read; or see `make`.
    """
    with disk_errors(files.files[0]):
        if sum(file.stat().st_size for file in files.files) < LEAST:
            return make()
        before = [sha256_as_it_is(file) for file in files.files]
    key = content_hash(before, files.places(short=False), files.name, str(files), _plain(settings), _reader())
    path = cache_dir() / FOLDER / f"{key}.arrow"
    found = None
    with suppress(OSError):  # a cache folder that cannot be read is as good as none
        found = recover(path, _read, "the table is made again from its files")
    if found is not None:
        table, remarks = found
        with suppress(OSError):  # only others may write there
            os.utime(path)
        _repeat(remarks)
        return table
    with _heard() as remarks:
        table = make()
    with disk_errors(files.files[0]):
        if [sha256_as_it_is(file) for file in files.files] != before:
            return table  # they were changed while they were read
    return _keep(path, table, {"source": files.name, "remarks": remarks})


def kept_tables() -> list[KeptTable]:
    """The tables in the cache folder, those set aside included, most recently used first."""
    found = []
    folder = cache_dir() / FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.endswith((".arrow", f".arrow{SET_ASIDE}")):
            with suppress(OSError):  # another process has removed it
                about = path.stat()
                found.append(KeptTable(path, _source(path), about.st_size, about.st_mtime))
    return sorted(found, key=lambda table: table.last_used, reverse=True)


def too_many(tables: Sequence[KeptTable], most: int) -> list[KeptTable]:
    """Those that were used longest ago, so that the others have at most so many bytes.

    Args:
        tables: as `kept_tables` gives them.
        most: bytes.
    """
    total, leaving = 0, []
    for table in tables:
        total += table.size
        if total > most:
            leaving.append(table)
    return leaving


def _keep(path: Path, table: "Dataset", about: Mapping[str, Any]) -> "Dataset":
    """The same table, from the cache where there is room."""
    try:
        with atomic_path(path) as partial:
            write_stream(partial, table, {_ABOUT: json.dumps(about)})
            with partial.open("ab") as end:
                end.write(bytes.fromhex(sha256_file(partial)))
        for one in too_many(kept_tables(), MOST):
            if one.path != path:
                one.path.unlink(missing_ok=True)
        return _mapped(path)[0]
    except (LabError, OSError) as error:
        narration.say(f"    The table is not kept for the next run. {error}")
        return table


def _read(path: Path, mend: str) -> tuple["Dataset", list[list[Any]]]:
    """A table and the remarks on it.

    Raises:
        DamagedError: it is not as it was written.
        OSError: there is none, or it cannot be read.
    """
    digest, left = hashlib.sha256(), path.stat().st_size - _DIGEST
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        if file.read() != digest.digest():
            raise DamagedError(path, "its content is not what its checksum says", mend)
    return _mapped(path)


def _mapped(path: Path) -> tuple["Dataset", list[list[Any]]]:
    found = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    metadata = dict(found.schema.metadata)
    about = json.loads(metadata.pop(_ABOUT))
    return as_data_set(found.replace_schema_metadata(metadata)), about["remarks"]


def _source(path: Path) -> str:
    try:
        with pa.OSFile(str(path)) as file:
            source: str = json.loads(pa.ipc.open_stream(file).schema.metadata[_ABOUT])["source"]
            return source
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return ""


@contextmanager
def _heard() -> Iterator[list[list[Any]]]:
    """What is said and warned of in the block, for `_repeat`."""
    remarks: list[list[Any]] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: remarks.append([record.levelno, record.getMessage()])  # type: ignore[method-assign]
    _logger.addHandler(handler)
    try:
        with narration.heard(lambda text: remarks.append([None, text])):
            yield remarks
    finally:
        _logger.removeHandler(handler)


def _repeat(remarks: Sequence[Sequence[Any]]) -> None:
    for level, text in remarks:
        if level is None:
            narration.say(text)
        else:
            _logger.log(level, "%s", text)


def _plain(value: Any) -> str:
    """A setting as text: a truth and a word that spells it differ, the order of a mapping makes no difference."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{key!r}: {_plain(one)}' for key, one in value.items()))}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_plain, value))}]"
    return repr(value)


@functools.cache
def _reader() -> str:
    """A hash of the code that makes a table, and of the version of Arrow, which parses."""
    sources = [*Path(__file__).parent.rglob("*.py"), Path(hashing.__file__)]
    return content_hash(pa.__version__, sorted((source.name, sha256_file(source)) for source in sources))
