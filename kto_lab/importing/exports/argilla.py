"""Argilla 2: the records of a dataset with their responses.

Read from the Python SDK 2.8.0: `dataset.records(with_responses=True).to_json(path)` (`records/_io/_json.py`) writes a
list of what `Record.to_dict` gives (`records/_resource.py`):

    {"id", "fields": {FIELD: text or [{"role", "content", ...}]}, "metadata": {...}, "vectors": {...}, "status",
     "responses": {QUESTION: [{"value", "user_id"}]}, "suggestions": {QUESTION: {"value", "score", "agent"}},
     "_server_id"}

`value` is a word for a label question and a number for a rating question. A record with several responses gives
several thumbs. The export holds neither their times nor their status, so drafts cannot be told from what was submitted;
filter by status when you export. Argilla 1 wrote `responses` as a list and is not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kto_lab.feedback.rows import existing
from kto_lab.feedback.scale import Scale
from kto_lab.feedback.unread import Unread
from kto_lab.importing.exports.labels import LabeledExport
from kto_lab.importing.exports.reading import records
from kto_lab.importing.exports.traced import annotated
from kto_lab.importing.exports.values import (
    NoThumbError,
    answer_of,
    identity_of,
    prompt_of,
    shown,
    verdict,
)
from kto_lab.importing.thumbs import Completion, LeftOut, Note, Reason, Row, Thumb


@dataclass(frozen=True, kw_only=True)
class ArgillaExport(LabeledExport):
    """Records of Argilla with one question that is the thumb.

    See `LabeledExport` for the settings that are not named here.

    Attributes:
        path: the JSON file.
        prompt_field: the field of the prompt, text or chat; None: the completion's field is a chat that ends with
            the answer.
        completion_field: the field of the answer.
        question: the question that is the thumb.
        suggestions: take suggestions where there is no response, as the signal "suggestion".
        model_key: the metadata key that names the model that answered, or None.
    """

    path: str
    prompt_field: str | None
    completion_field: str
    question: str
    suggestions: bool
    model_key: str | None

    def read(self) -> Iterator[Row | Note]:
        """One row for each record.

        Raises:
            LabError: the file cannot be read, or a setting is wrong.
        """
        file = existing(self.path, "export.path")
        yield from self.labeled(lambda: records(file, "json"), self._values, self._row, file.name)

    def _values(self, raw: dict[str, Any]) -> list[Any]:
        """The labels of a record, as they are."""
        responses = raw.get("responses")
        given = self._given(responses if isinstance(responses, dict) else {}, raw.get("suggestions"))
        return [_value(answer) for _, answer in given]

    def _row(self, where: str, raw: dict[str, Any], scale: Scale, unread: Unread) -> Row:
        fields, responses = raw.get("fields"), raw.get("responses")
        if not isinstance(fields, dict) or not isinstance(responses or {}, dict):
            raise NoThumbError(
                Reason.UNKNOWN_SCHEMA, "no record of Argilla 2, which has `fields` and `responses` as objects"
            )
        given = self._given(responses or {}, raw.get("suggestions"))
        prompt, completion = self._texts(fields, unread)
        metadata = raw.get("metadata")
        model = metadata.get(self.model_key) if isinstance(metadata, dict) and self.model_key else None
        record = identity_of(raw.get("id"))
        thumbs, left_out = [], []
        for number, (signal, answer) in enumerate(given):
            place = where if len(given) == 1 else f"{where} response {number + 1}"
            try:
                desirable, score = verdict(scale, _value(answer))
            except NoThumbError as none:
                left_out.append(LeftOut(place, none.reason, none.detail))
                continue
            rater = identity_of(answer.get("agent" if signal == "suggestion" else "user_id"))
            thumbs.append(
                Thumb(
                    where=place,
                    prompt=prompt,
                    completion=completion,
                    desirable=desirable,
                    signal="rating" if score is not None and signal == "thumb" else signal,
                    rater=None if rater == "None" else rater,
                    model=identity_of(model),
                    score=score,
                    identity=None if record is None else f"{record}, response {number + 1}",
                )
            )
        return Row(tuple(thumbs), tuple(left_out))

    def _given(self, responses: dict[str, Any], suggestions: Any) -> list[tuple[str, dict[str, Any]]]:
        """The answers to the question, and what they are."""
        found = responses.get(self.question)
        given = [("thumb", answer) for answer in found if isinstance(answer, dict)] if isinstance(found, list) else []
        if not given and self.suggestions and isinstance(suggestions, dict):
            suggested = suggestions.get(self.question)
            given = [("suggestion", suggested)] if isinstance(suggested, dict) else []
        if not given:
            raise NoThumbError(Reason.NO_THUMB, f"no response to the question {shown(self.question)}")
        return given

    def _texts(self, fields: dict[str, Any], unread: Unread) -> tuple[list[dict[str, str]], Completion]:
        answer = fields.get(self.completion_field)
        unread.look(fields, (self.prompt_field or self.completion_field, self.completion_field, "tools"))
        tools = fields.get("tools")
        if self.prompt_field is not None:
            return annotated(fields.get(self.prompt_field), answer, unread, tools=tools)
        if not isinstance(answer, list) or not answer or not isinstance(answer[-1], dict):
            raise NoThumbError(Reason.NO_COMPLETION, f"the field is {shown(answer)}, no chat")
        if answer[-1].get("role") != "assistant":
            raise NoThumbError(Reason.NO_ANSWER, "the chat does not end with the assistant's turn")
        return prompt_of(answer[:-1], unread, tools=tools), answer_of(answer[-1], unread)


def _value(answer: dict[str, Any]) -> Any:
    """The value of a response; that of a label question with several labels is a list."""
    value = answer.get("value")
    return value[0] if isinstance(value, list) and len(value) == 1 else value
