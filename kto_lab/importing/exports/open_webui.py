"""Open WebUI: the feedback history that an administrator exports as JSON.

Read from Open WebUI 0.12.4, whose `models/feedbacks.py` (`FeedbackModel`, `RatingData`, `MetaData`, `SnapshotData`) and
`models/chats.py` (`ChatModel`) are the schema and whose route `/api/v1/evaluations/feedbacks/all/export` writes it:
a list of

    {"id", "user_id", "version": 0, "type": "rating", "created_at", "updated_at",
     "data": {"rating": 1 | -1, "model_id", "sibling_model_ids", "reason", "comment", "tags",
              "details": {"rating": 1 to 10}},
     "meta": {"arena", "chat_id", "message_id", "message_index", "model_id", "base_models", "tags"},
     "snapshot": {"chat": {"id", "title", "chat": {"params": {"system"}, "history": {"messages": {ID: MESSAGE}}}}}}

with MESSAGE = {"id", "parentId", "childrenIds", "role", "content", "model", "timestamp", "done", "error", "files",
"annotation": {"rating"}}, newest thumb first, times in seconds since 1970. A user who changes a thumb changes the same
feedback, so an export holds the last one; two exports put together may hold both.

The rated message's ancestors are the prompt, with the chat's system prompt before them. What is not in the export: a
system prompt in the model's or the user's settings, and the content of attached files. A rated answer after a turn
with files is left out. Reasoning and tool calls, which the chat shows folded (`<details type="...">`), are read from
answers; see `open_webui_folds`. `originalContent` is not read: it is set by
the server's filters as well as by users who edit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kto_lab.errors import LabError
from kto_lab.feedback.rows import existing
from kto_lab.feedback.scale import number_of
from kto_lab.feedback.times import Times
from kto_lab.importing.exports.open_webui_folds import unfolded
from kto_lab.importing.exports.reading import records, rows_of
from kto_lab.importing.exports.values import (
    NoThumbError,
    Seen,
    answer_of,
    completion_of,
    identity_of,
    prompt_of,
    shown,
    signals_of,
)
from kto_lab.importing.thumbs import Completion, Reason, Row, Thumb

SIGNALS = ("regenerated", "passed_over")
_THUMBS = {"1": True, "-1": False}


@dataclass(frozen=True)
class OpenWebUiExport:
    """A feedback export of Open WebUI.

    Attributes:
        path: the JSON file.
        signals: what implicit signals mean: `regenerated`, an answer that the user regenerated with the same model;
            `passed_over`, another model's answer beside one with a thumbs-up. An answer with a thumb of its own gives
            no signal.
        cut_at: the tool cuts texts at so many characters; None: it does not.
    """

    path: str
    signals: Mapping[str, bool | None]
    cut_at: int | None

    def read(self) -> Iterator[Row]:
        """One row for each feedback.

        Raises:
            LabError: the file cannot be read, or `signals` names one that there is not.
        """
        signals = signals_of(self.signals, SIGNALS)
        file = existing(self.path, "export.path")
        if file.suffix.lower() in (".csv", ".parquet"):
            raise LabError(
                f"export.path: {self.path} holds no chats. Export the feedback history of Open WebUI as JSON."
            )
        seen = Seen()

        def make(where: str, raw: dict[str, Any]) -> Row:
            thumbs = _thumbs(where, raw, signals)
            seen.refuse_again(raw.get("id"), thumbs)
            return Row(thumbs)

        yield from rows_of(records(file, "json"), make)


def _thumbs(where: str, raw: dict[str, Any], signals: Mapping[str, bool | None]) -> tuple[Thumb, ...]:
    if raw.get("version", 0) not in (0, None):
        raise NoThumbError(Reason.UNKNOWN_SCHEMA, f"version {shown(raw['version'])}")
    if raw.get("type") != "rating":
        raise NoThumbError(Reason.UNKNOWN_SCHEMA, f"type {shown(raw.get('type'))}")
    data, meta = _mapping(raw, "data"), _mapping(raw, "meta")
    rating = data.get("rating")
    if rating is None or rating == "":
        raise NoThumbError(Reason.NO_THUMB, "no rating")
    desirable = None if isinstance(rating, bool) else _THUMBS.get(str(rating)[:8])
    if desirable is None:
        raise NoThumbError(Reason.UNKNOWN_THUMB, shown(rating))
    chat = _chat(raw)
    messages = _mapping(_mapping(chat, "history"), "messages")
    rated = _message(messages, meta.get("message_id"))
    if rated is None:
        raise NoThumbError(Reason.NO_ANSWER, "the rated message is not in the snapshot")
    if rated.get("role") != "assistant":
        raise NoThumbError(Reason.NO_ANSWER, f"the rated message has the role {shown(rated.get('role'))}")
    when = Times().first(raw.get("updated_at"), raw.get("created_at"))
    asked = _prompt(chat, messages, rated)
    prompt, completion = _judged(asked, rated)
    thumb = Thumb(
        where=where,
        prompt=prompt,
        completion=completion,
        desirable=desirable,
        model=identity_of(data.get("model_id")) or identity_of(rated.get("model")),
        score=number_of(_mapping(data, "details").get("rating")),
        finished=rated.get("done") is not False,
        rater=identity_of(raw.get("user_id")),
        timestamp=when.utc,
        unread_time=when.unread,
        identity=identity_of(raw.get("id")),
    )
    return (thumb, *_implicit(thumb, asked, messages, rated, signals))


def _implicit(
    thumb: Thumb,
    asked: list[dict[str, str]],
    messages: dict[str, Any],
    rated: dict[str, Any],
    signals: Mapping[str, bool | None],
) -> Iterator[Thumb]:
    """What the rated answer's siblings say: answers to the same turn, without thumbs of their own."""
    parent = _message(messages, rated.get("parentId")) or {}
    children = parent.get("childrenIds")
    siblings = [_message(messages, child) for child in children] if isinstance(children, list) else []
    turns = [sibling for sibling in siblings if sibling is not None and sibling.get("role") == "assistant"]
    for place, sibling in enumerate(turns):
        if sibling is rated or _mapping(sibling, "annotation").get("rating") is not None:
            continue
        same = _who(sibling) == _who(rated)
        # The last answer of a model is the one that stood; those before it were replaced.
        replaced = same and any(_who(later) == _who(sibling) for later in turns[place + 1 :])
        signal = "regenerated" if replaced else "passed_over" if thumb.desirable and not same else None
        desirable = signals.get(signal) if signal else None
        if signal is None or desirable is None:
            continue
        try:
            prompt, completion = _judged(asked, sibling)
        except NoThumbError:
            continue
        yield Thumb(
            where=thumb.where,
            prompt=prompt,
            completion=completion,
            desirable=desirable,
            signal=signal,
            rater=thumb.rater,
            model=identity_of(sibling.get("model")),
            timestamp=thumb.timestamp,
            unread_time=thumb.unread_time,
            finished=sibling.get("done") is not False,
        )


def _who(message: dict[str, Any]) -> tuple[str, str]:
    """The model that answered, and its place among those that were asked side by side."""
    return shown(message.get("model")), shown(message.get("modelIdx"))


def _chat(raw: dict[str, Any]) -> dict[str, Any]:
    outer = _mapping(raw, "snapshot").get("chat")
    inner = outer.get("chat") if isinstance(outer, dict) else None
    if not isinstance(inner, dict):
        raise NoThumbError(
            Reason.NO_COMPLETION, "no snapshot of the chat; only the export of the feedback history has it"
        )
    return inner


def _prompt(chat: dict[str, Any], messages: dict[str, Any], rated: dict[str, Any]) -> list[dict[str, str]]:
    turns: list[dict[str, Any]] = []
    # A broken chat tree could have cycles.
    visited: set[int] = {id(rated)}
    turn = _message(messages, rated.get("parentId"))
    while turn is not None and id(turn) not in visited:
        visited.add(id(turn))
        if turn.get("files"):
            raise NoThumbError(
                Reason.NO_PROMPT, "a turn has attached files, and the export does not hold what they say"
            )
        turns += reversed(_turns(turn))
        turn = _message(messages, turn.get("parentId"))
    if not turns:
        raise NoThumbError(Reason.NO_PROMPT, "no turn before the answer")
    system = _mapping(chat, "params").get("system") or chat.get("system")
    if isinstance(system, str) and system.strip():
        turns.append({"role": "system", "content": system})
    return prompt_of(turns[::-1])


def _turns(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of a message; an assistant's may hold calls, which are turns of their own."""
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str):
        return [message]
    *before, last = unfolded(content)
    return [*before, last] if not before or last["content"].strip() else before


def _judged(prompt: list[dict[str, str]], message: dict[str, Any]) -> tuple[list[dict[str, str]], Completion]:
    """The prompt and the completion of an answer: its own calls and their results are part of the prompt."""
    if message.get("error") is True or (message.get("error") and not message.get("content")):
        raise NoThumbError(Reason.NO_COMPLETION, "an error in the place of an answer")
    content = message.get("content")
    if not isinstance(content, str):
        return prompt, completion_of(content)
    *before, last = unfolded(content)
    return prompt_of([*prompt, *before]) if before else prompt, answer_of(last)


def _mapping(value: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping under a key; an empty one where there is none."""
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def _message(messages: dict[str, Any], identity: Any) -> dict[str, Any] | None:
    found = messages.get(identity) if isinstance(identity, str) else None
    return found if isinstance(found, dict) else None
