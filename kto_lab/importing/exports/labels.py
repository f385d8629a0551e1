"""Exports with labels, which are looked at before the rows are read; what readers such as `langfuse` share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kto_lab.feedback.rows import Raw, readable
from kto_lab.feedback.scale import Labels, Scale, Values, scale_of
from kto_lab.feedback.unread import Unread
from kto_lab.importing.exports.reading import rows_of
from kto_lab.importing.exports.values import NoThumbError, Seen, notes_of, notes_on, unread_of
from kto_lab.importing.thumbs import Note, Row


@dataclass(frozen=True, kw_only=True)
class LabeledExport:
    """The settings that exports with labels share.

    Attributes:
        labels: what label values mean, beyond the words that are known; None for neutral ones.
        up_from: a numeric label of at least this is a thumbs-up; None: the user is asked where it matters.
        down_to: a numeric label of at most this is a thumbs-down.
        ignore: keys that are left out by name, of inputs and of messages.
        cut_at: the tool cuts texts at so many characters; None: it does not.
    """

    labels: Labels | None
    up_from: float | None
    down_to: float | None
    ignore: Sequence[str]
    cut_at: int | None

    def scale(
        self, raws: Iterable[Raw], values: Callable[[dict[str, Any]], Iterable[Any]], source: str
    ) -> tuple[Scale, list[Note]]:
        """The scale that reads the labels, and how it reads them.

        Args:
            raws: the rows that hold labels.
            values: the labels of a row; NoThumbError where it has none.
            source: what the rows come from, for messages.

        Raises:
            LabError: settings contradict each other, or the thresholds of a scale have to be given.
        """
        found = Values()
        scale = scale_of(self.labels, self.up_from, self.down_to, node="export")
        for _, raw in readable(raws):
            try:
                for value in values(raw):
                    found.add(value)
            except NoThumbError:
                continue
        scale = scale.decided(found, source)
        told = scale.told(found)
        return scale, notes_on([f"{source}: label: {told}."] if told else [], scale)

    def labeled(
        self,
        raws: Callable[[], Iterable[Raw]],
        values: Callable[[dict[str, Any]], Iterable[Any]],
        make: Callable[[str, dict[str, Any], Scale, Unread], Row],
        source: str,
        *,
        first: Iterable[Row] = (),
    ) -> Iterator[Row | Note]:
        """How the labels are read, one row for each raw row, and what was not read.

        Args:
            raws: gives the rows that hold labels, from the beginning each time. Their `id` tells a label that was
                exported twice.
            values: see `scale`.
            make: the row of a raw row at its place, with the scale, and a count of what is not read; NoThumbError where
                it gives none.
            source: see `scale`.
            first: rows that come before.

        Raises:
            LabError: see `scale`.
        """
        scale, notes = self.scale(raws(), values, source)
        yield from notes
        yield from first
        unread, seen = unread_of(self.ignore), Seen()

        def new(where: str, raw: dict[str, Any]) -> Row:
            row = make(where, raw, scale, unread)
            seen.refuse_again(raw.get("id"), row.thumbs)
            return row

        yield from rows_of(raws(), new)
        yield from notes_of(unread, source)
