"""The settings that every reader of files has, checked."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kto_lab.errors import LabError

ContainerName: TypeAlias = Literal["auto", "json", "jsonl", "csv", "parquet", "arrow"]
# What a setting names: a file, a folder, a glob, "-" for standard input, or a list of these.
Paths: TypeAlias = str | Sequence[str]

# Bytes of one row. A larger one means that the file is not what it seems: a bracket or a quote is missing somewhere.
LARGEST = 128 * 2**20
# A file of many rows that has more of them for each of its bytes holds no thumbs: to read it would take hours.
MANY_ROWS, ROWS_PER_BYTE = 1_000_000, 10


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        container: one of `rows.CONTAINERS` (json is a list, or an object per line, and so is jsonl); "auto" goes by the
            file's ending.
        encoding: of text; None: UTF-8, or what a byte order mark says.
        delimiter: what separates the cells of CSV; None: found in its first lines.
        max_rows: a file with more rows is refused; None: `MANY_ROWS`, or `ROWS_PER_BYTE` where that is more.
        node: the node of the configuration that has these settings, for messages.
        keys: whether a person can set them: else messages name no key.

    Raises LabError where an encoding is not known, a delimiter is no character, or no row is allowed.
    """

    container: str = "auto"
    encoding: str | None = None
    delimiter: str | None = None
    max_rows: int | None = None
    node: str = "feedback"
    keys: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.encoding is not None:
            try:
                codecs.getincrementaldecoder(self.encoding)()
                b"".decode(self.encoding)
            except (LookupError, ValueError, TypeError) as error:
                raise LabError(
                    f"{self.node}.encoding is {self.encoding!r}, which is no known encoding of text. Use a name such "
                    "as utf-8, utf-16, cp1252 (Western Windows), cp1251 (Cyrillic) or shift_jis."
                ) from error
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise LabError(
                f"{self.node}.delimiter is {self.delimiter!r}; it must be one character, such as ';' or '|' (a tab: "
                f"{self.node}.delimiter=\"'\\t'\"), or null."
            )
        if self.max_rows is not None and self.max_rows < 1:
            raise LabError(f"{self.node}.max_rows is {self.max_rows}; it must be at least 1, or null.")

    @property
    def utf8(self) -> bool:
        """Whether text is read as UTF-8 where no byte order mark says otherwise."""
        return self.encoding is None or codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")

    def most(self, size: int) -> int:
        """The rows that a file of so many bytes may have."""
        return max(MANY_ROWS, size * ROWS_PER_BYTE) if self.max_rows is None else self.max_rows

    def too_many(self, file: object, size: int, rows: str) -> LabError:
        """The error that a file of so many bytes has too many rows ("2,000,000", "more than 10")."""
        if self.max_rows is not None:
            return LabError(f"{file}: it has {rows} rows, and {self.node}.max_rows is {self.max_rows:,}. Raise it.")
        mend = f" If it is right, set {self.node}.max_rows." if self.keys else ""
        return LabError(
            f"{file} says that its {size:,} bytes hold {rows} rows, which can only be the same ones over and over. "
            f"Get the file again, or write it with the rows that are meant.{mend}"
        )

    def no_text(self, sample: bytes) -> str:
        """What to do about bytes that are not of the encoding, in a sentence."""
        if not self.keys:
            return "Save the file as UTF-8."
        if not self.utf8:
            return f"Set {self.node}.encoding to the one that it was saved with, or save it as UTF-8."
        return f"Save the file as UTF-8, or set {self.node}.encoding to what it is: likely {likely(sample)}."


def likely(sample: bytes) -> str:
    """The encoding that bytes which are no UTF-8 probably have: a guess to show, never to read by."""
    high = sum(byte >= 0xC0 for byte in sample)
    letters = sum(chr(byte).isalpha() for byte in sample if byte < 0x80)
    if high > letters:
        return "cp1251 (Cyrillic) or another of a language that is not written in Latin letters"
    try:
        sample.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252 (Western Windows)"
