"""A file opened for a container: unpacked where it is compressed, and as UTF-8 where it is text."""

import bz2
import codecs
import gzip
import io
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import pyarrow as pa

from kto_lab.errors import LabError
from kto_lab.feedback.rows.files import disk_errors
from kto_lab.feedback.rows.settings import Reading

BUFFER = 2**20
# By their first bytes, since a name can be anything.
_PACKED: dict[bytes, tuple[str, Callable[[BinaryIO], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda raw: gzip.GzipFile(fileobj=raw)),
    b"\x28\xb5\x2f\xfd": ("zstd", lambda raw: pa.CompressedInputStream(pa.PythonFile(raw), "zstd")),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\0": ("xz", lzma.LZMAFile),
    b"PK\x03\x04": ("zip", lambda raw: _member(raw)),
}
# Nobody's thumbs are packed more than this; what is would fill the disk.
_PACKED_BYTES, _TIMES = 2**30, 1000
_DAMAGE = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    RuntimeError,
    OSError,
    ValueError,
)


@dataclass
class Opened:
    """An open file.

    Attributes:
        file: where it is.
        place: what the places of its rows call it.
        size: its bytes, as it lies on the disk.
        reading: how it is read.
        raw: its bytes as they are.
        content: its bytes, unpacked.
        packed: whether the two differ.
        share: how much of it has been read, in [0, 1], where that is not how much of `raw` has.
    """

    file: Path
    place: str
    size: int
    reading: Reading
    raw: BinaryIO
    content: "io.BufferedReader[Any]"
    packed: bool
    share: float | None = None

    def read_so_far(self) -> int:
        """Bytes of the file, as it lies on the disk, that have been read."""
        return self.raw.tell() if self.share is None else int(self.size * self.share)

    def text(self) -> io.BufferedReader:
        """Its text in UTF-8, without a byte order mark. Bytes that are no UTF-8 stay where it should be UTF-8."""
        begin = self.content.peek(4)[:4]
        encoding, mark = _encoding(begin, self.reading)
        self.content.read(mark)
        if encoding is None:
            return self.content
        return io.BufferedReader(_AsUtf8(self.content, encoding, self), BUFFER)

    def seekable(self) -> Path | IO[bytes]:
        """What a format that is read from its end needs: the file, or a temporary one with what it is unpacked to."""
        if not self.packed:
            return self.file
        whole = tempfile.TemporaryFile()  # noqa: SIM115 (it is deleted with the last reference to it)
        while block := self.content.read(BUFFER):
            whole.write(block)
        whole.seek(0)
        return whole


@contextmanager
def opened(file: Path, place: str, reading: Reading) -> Iterator[Opened]:
    """A file, open.

    Raises:
        LabError: it cannot be read or unpacked.
    """
    with disk_errors(file), ExitStack() as stack:
        raw = io.BufferedReader(stack.enter_context(file.open("rb", buffering=0)), BUFFER)
        begin = raw.read(8)
        raw.seek(0)
        kind = next((kind for start, kind in _PACKED.items() if begin.startswith(start)), None)
        content: io.BufferedReader[Any] = raw
        if kind is not None:
            name, unpack = kind
            size = file.stat().st_size
            content = io.BufferedReader(_Unpacked(lambda: unpack(raw), name, file, size), BUFFER)
        yield Opened(file, place, file.stat().st_size, reading, raw, content, kind is not None)


def whole_text(file: Path, reading: Reading) -> bytes:
    """All of a file's text in UTF-8, unpacked.

    Raises:
        LabError: it cannot be read or unpacked.
    """
    with opened(file, str(file), reading) as content:
        return content.text().read()


def member_name(file: Path) -> str:
    """The name of what a zip file holds; that of the file itself where it is none."""
    with disk_errors(file), file.open("rb") as raw:
        if not raw.read(4).startswith(b"PK\x03\x04"):
            return file.name
        try:
            return _only(zipfile.ZipFile(raw), file.name).filename
        except _DAMAGE as error:
            raise _damaged(file, "zip", error) from error


def _member(raw: BinaryIO) -> IO[bytes]:
    archive = zipfile.ZipFile(raw)
    return archive.open(_only(archive, Path(raw.name).name))


def _only(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    members = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
    if any(one.filename == "[Content_Types].xml" for one in members):
        raise LabError(f"{name} is an Excel workbook or the like. Save the sheet as CSV.")
    if len(members) != 1:
        names = ", ".join(one.filename for one in members[:5]) or "none"
        raise LabError(
            f"{name}: a zip file must hold one file, and this one holds {len(members)}: {names}. Unpack it first."
        )
    return members[0]


class _Unpacked(io.RawIOBase):
    """The content of a packed file; damage is an error for a person, and there is an end to it."""

    def __init__(self, open_it: Callable[[], Any], kind: str, file: Path, size: int) -> None:
        self._kind, self._file, self._most, self._given = kind, file, max(_PACKED_BYTES, size * _TIMES), 0
        self._source = self._told(open_it)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._told(lambda: self._source.read(len(buffer)))
        buffer[: len(block)] = block
        self._given += len(block)
        if self._given > self._most:
            raise LabError(
                f"{self._file} unpacks to more than {_TIMES} times its size, which no file of thumbs does. Unpack it "
                "yourself if it is right."
            )
        return len(block)

    def _told(self, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except _DAMAGE as error:
            raise _damaged(self._file, self._kind, error) from error


def _damaged(file: Path, kind: str, error: BaseException) -> LabError:
    return LabError(f"{file} cannot be unpacked ({kind}): {str(error).rstrip('.')}. Get the file again.")


def _encoding(begin: bytes, reading: Reading) -> tuple[str | None, int]:
    """The encoding to read by, None for UTF-8; and the bytes of a mark that stands before the text."""
    if not reading.utf8:
        return reading.encoding, 0
    if begin.startswith(codecs.BOM_UTF8):
        return None, len(codecs.BOM_UTF8)
    if reading.encoding is not None:
        return None, 0
    if begin.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32", 0
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", 0
    # Without a mark: every other byte of Latin letters, brackets and quotes is zero.
    if len(begin) >= 2 and not begin[0] and begin[1]:
        return "utf-16-be", 0
    if len(begin) >= 2 and begin[0] and not begin[1]:
        return "utf-16-le", 0
    return None, 0


class _AsUtf8(io.RawIOBase):
    """Text of another encoding as UTF-8."""

    def __init__(self, source: io.BufferedReader, encoding: str, opened: Opened) -> None:
        self._source, self._encoding, self._opened = source, encoding, opened
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = b""
        self._lines = 1

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            block = self._source.read(BUFFER // 4)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line = self._lines + error.object[: error.start].decode(self._encoding, "replace").count("\n")
                raise LabError(
                    f"{self._opened.place}:{line}: this is no {self._encoding} text. "
                    f"{self._opened.reading.no_text(b'')}"
                ) from error
            self._lines += text.count("\n")
            self._left = text.encode("utf-8", "surrogatepass")
            if not block and not self._left:
                return 0
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
