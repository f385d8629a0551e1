"""LangSmith: feedback, and the runs that it is on.

Read from LangSmith's "Feedback data format" and "Run (span) data format" (docs.langchain.com/langsmith/
feedback-data-format and run-data-format) and from `langsmith.schemas` 0.15.0 (`Feedback`, `Run`). Feedback is what
`Client.list_feedback` gives, written as JSON lines or a JSON list:

    {"id", "created_at", "modified_at", "run_id", "trace_id", "session_id", "key", "score", "value", "comment",
     "correction", "feedback_source": {"type", "metadata", "user_id", "user_name"}}

Runs are what `Client.list_runs` gives, or a bulk export in Parquet, where `inputs`, `outputs` and `extra` are texts:

    {"id", "trace_id", "parent_run_id", "run_type", "inputs", "outputs", "error", "start_time",
     "extra": {"metadata", "invocation_params"}}

Feedback without a run is on its trace's root run, which has the trace's identity.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kto_lab.feedback.messages import decoded
from kto_lab.feedback.rows import existing
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

_MODEL_KEYS = ("ls_model_name", "model_name", "model")
_USER_KEYS = ("user_id", "user")


@dataclass(frozen=True, kw_only=True)
class LangSmithExport(LabeledExport):
    """Feedback of one key with its runs.

    See `LabeledExport` for the settings that are not named here.

    Attributes:
        feedback: the file of feedback.
        runs: the file of runs.
        key: the feedback key that is the thumb; rows of others are left out.
        input_key: the key of the inputs that holds the prompt; None to look for it.
        output_key: the key of the outputs that holds the answer; None to look for it.
        timezone: the zone of times that name none; LangSmith writes UTC.
    """

    feedback: str
    runs: str
    key: str
    input_key: str | None
    output_key: str | None
    timezone: str

    def read(self) -> Iterator[Row | Note]:
        """One row for each feedback, after those of the runs that cannot be read.

        Raises:
            LabError: a file cannot be read, or a setting is wrong.
        """
        times = Times(zone_of(self.timezone, "export.timezone"))
        feedback, runs = existing(self.feedback, "export.feedback"), existing(self.runs, "export.runs")
        with lookup() as found:

            def make(where: str, raw: dict[str, Any], scale: Scale, unread: Unread) -> Row:
                desirable, rating = verdict(scale, self._value(raw))
                run = _run(raw, found)
                when = times.first(raw.get("modified_at"), raw.get("created_at"))
                source, extra = _mapping(raw.get("feedback_source")), _mapping(run.get("extra"))
                metadata = _mapping(extra.get("metadata"))
                prompt, completion = traced(
                    run.get("inputs"),
                    run.get("outputs"),
                    unread,
                    input_key=self.input_key,
                    output_key=self.output_key,
                    # Where LangChain keeps them.
                    tools=_mapping(extra.get("invocation_params")).get("tools"),
                )
                thumb = Thumb(
                    where=where,
                    prompt=prompt,
                    completion=completion,
                    desirable=desirable,
                    signal="thumb" if rating is None else "rating",
                    rater=identity_of(source.get("user_id")) or _first(metadata, _USER_KEYS),
                    model=_first(metadata, _MODEL_KEYS),
                    timestamp=when.utc,
                    unread_time=when.unread,
                    score=rating,
                    identity=identity_of(raw.get("id")),
                )
                return Row((thumb,))

            yield from self.labeled(
                lambda: records(feedback),
                lambda raw: [self._value(raw)],
                make,
                feedback.name,
                first=found.fill(records(runs), _keys),
            )

    def _value(self, raw: dict[str, Any]) -> Any:
        """What feedback says, as it says it."""
        if not isinstance(raw.get("key"), str):
            raise NoThumbError(Reason.UNKNOWN_SCHEMA, "no feedback: it has no key")
        if raw["key"] != self.key:
            raise NoThumbError(Reason.NO_THUMB, f"the feedback {shown(raw['key'])}")
        score = raw.get("score")
        return raw.get("value") if score is None else score


def _run(raw: dict[str, Any], found: Lookup) -> dict[str, Any]:
    identity = raw.get("run_id") or raw.get("trace_id")
    run = found.get(str(identity)) if isinstance(identity, str) else None
    if run is None:
        raise NoThumbError(Reason.NO_ANSWER, f"its run is not in the file: {shown(identity)}")
    if run.get("error") and run.get("outputs") in (None, "", "null", "{}", {}):
        raise NoThumbError(Reason.NO_COMPLETION, "its run ended with an error")
    return run


def _keys(run: dict[str, Any]) -> Iterator[str]:
    if isinstance(run.get("id"), str):
        yield run["id"]


def _mapping(value: Any) -> dict[str, Any]:
    found = decoded(value)
    return found if isinstance(found, dict) else {}


def _first(metadata: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((name for key in keys if (name := identity_of(metadata.get(key)))), None)
