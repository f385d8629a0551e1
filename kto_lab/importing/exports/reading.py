"""The rows of an export: what `kto_lab.feedback.rows` reads, with the reasons of what is left out."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kto_lab.feedback.paths import opened
from kto_lab.feedback.rows import Files, Raw, Reading, Unreadable, read_rows
from kto_lab.importing.exports.values import NoThumbError
from kto_lab.importing.thumbs import LeftOut, Reason, Row

# One of these is in each row of a tool.
_TELLING = ("id", "question_id", "conversation_id", "conversation_a", "messages", "trace_id", "traceId", "fields")


def records(files: Files, container: str = "auto") -> Iterator[Raw]:
    """The rows of an export with their places, which begin with a file's name; see `read_rows`.

    A file whose ending is not known is taken for JSON, as tools name their exports in many ways; what an API answers
    has its rows in an envelope.
    """
    reading = Reading(container, node="export", keys=False)
    raws = functools.partial(read_rows, files, reading, short=True, otherwise="json")
    return opened(raws, _TELLING, None, node="export")()


def rows_of(raws: Iterable[Raw], make: Callable[[str, dict[str, Any]], Row]) -> Iterator[Row]:
    """One row for each raw row: what `make` makes of it, or why it refuses."""
    for where, raw in raws:
        if isinstance(raw, Unreadable):
            yield Row(left_out=(unreadable(where, raw),))
            continue
        try:
            yield make(where, raw)
        except NoThumbError as refusal:
            yield Row(left_out=(refusal.at(where),))


def unreadable(where: str, raw: Unreadable) -> LeftOut:
    """A row that cannot be read, as a line of the report."""
    return LeftOut(where, Reason.UNREADABLE, raw.detail)
