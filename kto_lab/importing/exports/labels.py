"""The labels of an export, looked at before its rows are read; what `langfuse` and the other tools' readers share."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kto_lab.feedback.rows import Raw, readable
from kto_lab.feedback.scale import Scale, Values, scale_of
from kto_lab.importing.exports.values import NoThumbError
from kto_lab.importing.thumbs import Note


def read_labels(
    raws: Iterable[Raw],
    values: Callable[[dict[str, Any]], Iterable[Any]],
    *,
    labels: Mapping[Any, bool | None] | None,
    up_from: float | None,
    down_to: float | None,
    source: str,
) -> tuple[Scale, list[Note]]:
    """The scale that reads an export's labels, and how it reads them.

    Args:
        raws: the rows that hold labels.
        values: the labels of a row; NoThumbError where it has none.
        labels: see `kto_lab.feedback.scale.scale_of`.
        up_from: see `kto_lab.feedback.scale.Scale`.
        down_to: see `kto_lab.feedback.scale.Scale`.
        source: what the rows come from, for messages.

    Raises:
        LabError: settings contradict each other, or the thresholds of a scale have to be given.
    """
    found = Values()
    scale = scale_of(labels, up_from, down_to, node="export")
    for _, raw in readable(raws):
        try:
            for value in values(raw):
                found.add(value)
        except NoThumbError:
            continue
    scale = scale.decided(found, source)
    told = scale.told(found)
    return scale, [Note(f"{source}: label: {told}.")] if told else []
