"""Langfuse: scores, and the traces or observations that they are on.

Read from Langfuse's "Blob Storage Export Field Reference" (langfuse.com/docs/api-and-data-platform/features/
blob-storage-export-fields: `scores/`, `observations_v2/`, `observations/`, `traces/`) and from the types of its Python
SDK 5.0.4 (`Score`, `ScoreV3`, `ObservationV2`), which are those of the API and of the export from the UI. Both name the
same fields, the one `trace_id`, the other `traceId`; both are taken. Files are JSON lines, JSON lists, CSV or Parquet.

A score has a name, a `data_type` and a value: NUMERIC a number, BOOLEAN 1 or 0 (or true and false), CATEGORICAL a word
in `string_value` (of the API's third version, in `value`). TEXT and CORRECTION say no thumb. It is on an observation,
or on a trace: then the trace's own input and output are taken, or those of its root observation.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kto_lab.feedback.rows import Raw, Unreadable, existing
from kto_lab.feedback.scale import Scale
from kto_lab.feedback.times import Times, zone_of
from kto_lab.feedback.unread import Unread
from kto_lab.importing.exports.labels import LabeledExport
from kto_lab.importing.exports.lookup import Lookup, lookup
from kto_lab.importing.exports.reading import records
from kto_lab.importing.exports.traced import traced
from kto_lab.importing.exports.values import (
    NoThumbError,
    identity_of,
    shown,
    verdict,
)
from kto_lab.importing.thumbs import Note, Reason, Row, Thumb

_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_TYPES = ("NUMERIC", "BOOLEAN", "CATEGORICAL")


@dataclass(frozen=True, kw_only=True)
class LangfuseExport(LabeledExport):
    """Scores of one name with what they are on.

    See `LabeledExport` for the settings that are not named here.

    Attributes:
        scores: the file of scores.
        observations: the file of observations, or None.
        traces: the file of traces, or None.
        name: the score that is the thumb; rows of others are left out.
        input_key: the key of the input that holds the prompt; None to look for it.
        output_key: the key of the output that holds the answer; None to look for it.
        timezone: the zone of times that name none; Langfuse writes UTC.
    """

    scores: str
    observations: str | None
    traces: str | None
    name: str
    input_key: str | None
    output_key: str | None
    timezone: str

    def read(self) -> Iterator[Row | Note]:
        """One row for each score, after those of the other files that cannot be read.

        Raises:
            LabError: a file cannot be read, or a setting is wrong.
        """
        times = Times(zone_of(self.timezone, "export.timezone"))
        scores = existing(self.scores, "export.scores")
        # Traces come last: what a trace says of itself is preferred to its root observation.
        parts = [("observations", self.observations, _observation_keys), ("traces", self.traces, _trace_keys)]
        with lookup() as found:

            def filled() -> Iterator[Row]:
                for part, path, keys in parts:
                    if path is not None:
                        yield from found.fill(_renamed(records(existing(path, f"export.{part}"))), keys)

            def make(where: str, raw: dict[str, Any], scale: Scale, unread: Unread) -> Row:
                desirable, rating = verdict(scale, self._value(raw))
                on, when = _subject(raw, found), times.read(raw.get("timestamp"))
                prompt, completion = traced(
                    on.get("input"),
                    on.get("output"),
                    unread,
                    input_key=self.input_key,
                    output_key=self.output_key,
                )
                thumb = Thumb(
                    where=where,
                    prompt=prompt,
                    completion=completion,
                    desirable=desirable,
                    signal="thumb" if rating is None else "rating",
                    rater=identity_of(raw.get("author_user_id")) or identity_of(on.get("user_id")),
                    model=identity_of(on.get("provided_model_name")) or identity_of(on.get("model")),
                    timestamp=when.utc,
                    unread_time=when.unread,
                    score=rating,
                    identity=identity_of(raw.get("id")),
                )
                return Row((thumb,))

            yield from self.labeled(
                lambda: _renamed(records(scores)), lambda raw: [self._value(raw)], make, scores.name, first=filled()
            )

    def _value(self, score: dict[str, Any]) -> Any:
        """What a score says, as it says it."""
        if not isinstance(score.get("name"), str):
            raise NoThumbError(Reason.UNKNOWN_SCHEMA, "no score: it has no name")
        if score["name"] != self.name:
            raise NoThumbError(Reason.NO_THUMB, f"the score {shown(score['name'])}")
        kind = score.get("data_type") or "NUMERIC"
        if kind not in _TYPES:
            raise NoThumbError(Reason.UNKNOWN_THUMB, f"a score of type {shown(kind)}")
        word = score.get("string_value") if kind == "CATEGORICAL" else None
        return word or score.get("value")


def _subject(score: dict[str, Any], found: Lookup) -> dict[str, Any]:
    """What a score is on, with the user of its trace."""
    subject = score.get("subject")
    subject = _snake(subject) if isinstance(subject, dict) else {}
    own = subject.get("id")
    observation = score.get("observation_id") or (own if subject.get("kind") == "observation" else None)
    trace = score.get("trace_id") or subject.get("trace_id") or (own if subject.get("kind") == "trace" else None)
    if not observation and not trace:
        raise NoThumbError(Reason.NO_ANSWER, "on neither an observation nor a trace")
    of_trace = found.get(f"trace {trace}") if trace else None
    on = found.get(f"observation {observation}") if observation else of_trace
    if on is None:
        what = "observation" if observation else "trace"
        raise NoThumbError(Reason.NO_ANSWER, f"its {what} is in no file: {shown(observation or trace)}")
    return on if on.get("user_id") else {**on, "user_id": (of_trace or {}).get("user_id")}


def _observation_keys(row: dict[str, Any]) -> Iterator[str]:
    yield f"observation {row.get('id')}"
    if not row.get("parent_observation_id"):
        yield f"trace {row.get('trace_id')}"


def _trace_keys(row: dict[str, Any]) -> Iterator[str]:
    # A trace that holds no answer says less than its root observation.
    if row.get("output"):
        yield f"trace {row.get('id')}"


def _renamed(raws: Iterable[Raw]) -> Iterator[Raw]:
    for where, raw in raws:
        yield where, raw if isinstance(raw, Unreadable) else _snake(raw)


def _snake(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the names of the blob export."""
    return {_CAMEL.sub(r"_\1", name).lower(): value for name, value in row.items()}
