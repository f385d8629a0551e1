"""Label Studio: annotated tasks, exported as JSON.

Read from "Export annotations" (labelstud.io/guide/export, "Label Studio JSON format of annotated tasks") and the pages
of the tags Choices and Rating, of Label Studio 1.x. A list of tasks:

    {"id", "data": {...}, "created_at", "updated_at", "project", "predictions": [...],
     "annotations": [{"id", "completed_by": number or {"id", "email"}, "was_cancelled", "created_at", "updated_at",
                      "result": [{"from_name", "to_name", "type": "choices", "value": {"choices": [word]}},
                                 {"from_name", "to_name", "type": "rating", "value": {"rating": number}}]}]}

A task with several annotations gives several thumbs; skipped ones (`was_cancelled`) give none, and predictions are not
read. The short form JSON_MIN has no annotations and is not known.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kto_lab.feedback.paths import cell, steps_of
from kto_lab.feedback.rows import existing
from kto_lab.feedback.scale import Scale
from kto_lab.feedback.times import Times, zone_of
from kto_lab.feedback.unread import Unread
from kto_lab.importing.exports.labels import LabeledExport
from kto_lab.importing.exports.reading import records
from kto_lab.importing.exports.traced import annotated
from kto_lab.importing.exports.values import (
    NoThumbError,
    identity_of,
    shown,
    verdict,
)
from kto_lab.importing.thumbs import LeftOut, Note, Reason, Row, Thumb


@dataclass(frozen=True, kw_only=True)
class LabelStudioExport(LabeledExport):
    """Tasks of Label Studio with one control that is the thumb.

    See `LabeledExport` for the settings that are not named here.

    Attributes:
        path: the JSON file.
        prompt_key: the key of the task's data that holds the prompt, text or chat messages.
        completion_key: the key that holds the answer.
        model_key: the key that names the model that answered, or None.
        control: the name of the Choices or Rating tag that is the thumb.
        timezone: the zone of times that name none; Label Studio writes UTC.
    """

    path: str
    prompt_key: str
    completion_key: str
    model_key: str | None
    control: str
    timezone: str

    def read(self) -> Iterator[Row | Note]:
        """One row for each task.

        Raises:
            LabError: the file cannot be read, or a setting is wrong.
        """
        times = Times(zone_of(self.timezone, "export.timezone"))
        file = existing(self.path, "export.path")
        make = functools.partial(self._row, times)
        yield from self.labeled(lambda: records(file, "json"), self._values, make, file.name)

    def _values(self, raw: dict[str, Any]) -> Iterator[Any]:
        """The labels of a task, as they are."""
        annotations = raw.get("annotations")
        for annotation in annotations if isinstance(annotations, list) else ():
            try:
                yield self._value(annotation)
            except NoThumbError:
                continue

    def _row(self, times: Times, where: str, raw: dict[str, Any], scale: Scale, unread: Unread) -> Row:
        data, annotations = raw.get("data"), raw.get("annotations")
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise NoThumbError(
                Reason.UNKNOWN_SCHEMA, "no task with `data` and `annotations`; export as JSON, not JSON_MIN"
            )
        if not annotations:
            raise NoThumbError(Reason.NO_THUMB, "no annotation")
        keys = (self.prompt_key, self.completion_key, self.model_key or self.prompt_key, "tools")
        unread.look(data, [str(steps_of(key)[0]) for key in keys])
        asked, answered = cell(data, self.prompt_key), cell(data, self.completion_key)
        prompt, completion = annotated(asked, answered, unread, tools=data.get("tools"))
        thumbs, left_out = [], []
        for number, annotation in enumerate(annotations):
            place = where if len(annotations) == 1 else f"{where}.annotations[{number}]"
            try:
                desirable, score = verdict(scale, self._value(annotation))
            except NoThumbError as none:
                left_out.append(LeftOut(place, none.reason, none.detail))
                continue
            when = times.first(annotation.get("updated_at"), annotation.get("created_at"))
            thumbs.append(
                Thumb(
                    where=place,
                    prompt=prompt,
                    completion=completion,
                    desirable=desirable,
                    signal="thumb" if score is None else "rating",
                    rater=_rater(annotation.get("completed_by")),
                    model=identity_of(cell(data, self.model_key)) if self.model_key else None,
                    timestamp=when.utc,
                    unread_time=when.unread,
                    score=score,
                    identity=identity_of(annotation.get("id")),
                )
            )
        return Row(tuple(thumbs), tuple(left_out))

    def _value(self, annotation: Any) -> Any:
        """What the control says: a word or a number."""
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
            raise NoThumbError(Reason.UNREADABLE, "an annotation without a result")
        if annotation.get("was_cancelled"):
            raise NoThumbError(Reason.NO_THUMB, "skipped")
        said = [
            part for part in annotation["result"] if isinstance(part, dict) and part.get("from_name") == self.control
        ]
        if not said:
            raise NoThumbError(Reason.NO_THUMB, f"nothing from the control {shown(self.control)}")
        value = said[-1].get("value")
        value = value if isinstance(value, dict) else {}
        choices = value.get("choices")
        if not isinstance(choices, list):
            return value.get("rating")
        if len(choices) > 1:
            raise NoThumbError(Reason.UNKNOWN_THUMB, f"{len(choices)} choices")
        return choices[0] if choices else None


def _rater(completed_by: Any) -> str | None:
    """The annotator's number, whether it stands alone or with an address."""
    return identity_of(completed_by.get("id") if isinstance(completed_by, dict) else completed_by)
