"""Chat logs of your own product: OpenAI's messages, and what users did with the answers.

There is no tool to follow here, so the format is the plainest that such logs have, and every name in it is a setting.
A conversation is a line (or an element of a JSON list), with messages as in OpenAI's chat completions:

    {"id", "model", "user", "messages": [{"id", "role", "content"}], "tools", "events": [EVENT], "thumb"}

What users did is in `events` or `thumb` of the same line, or in a second file with one event per line:

    {"id", "conversation_id", "message_id" or "message_index", "type", "value", "completion", "user_id", "timestamp"}

`type`, or `value`, is a thumb ("thumbs_up") or the name of an implicit signal ("copied", "regenerated"); two small
tables give their meanings. An event without a message is on the last answer. `completion` is the text that was judged,
where the log has since changed because the answer was regenerated or edited.

The thumb belongs to one of the assistant's turns, and the prompt is every turn before it. Where two answers follow each
other with no turn between them, the first was replaced by the second and is not part of a later prompt.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from kto_lab.errors import LabError
from kto_lab.feedback.messages import decoded, role_of
from kto_lab.feedback.paths import cell, steps_of
from kto_lab.feedback.rows import Files, existing, readable
from kto_lab.feedback.scale import Scale, scale_of
from kto_lab.feedback.times import Times, zone_of
from kto_lab.feedback.unread import Unread
from kto_lab.importing.exports.labels import LabeledExport
from kto_lab.importing.exports.lookup import lookup
from kto_lab.importing.exports.reading import records, rows_of
from kto_lab.importing.exports.values import (
    NoThumbError,
    Seen,
    answer_of,
    completion_of,
    identity_of,
    notes_of,
    prompt_of,
    shown,
    signals_of,
    unread_of,
    verdict,
)
from kto_lab.importing.thumbs import LeftOut, Note, Reason, Row, Thumb

COLUMNS = ("conversation", "messages", "tools", "model", "user", "timestamp", "events", "thumb")
EVENT_COLUMNS = ("id", "conversation", "message", "index", "type", "value", "completion", "user", "timestamp")


@dataclass(frozen=True, kw_only=True)
class ChatLogExport(LabeledExport):
    """Conversations and events.

    See `LabeledExport` for the settings that are not named here.

    Attributes:
        path: the file of conversations.
        events: the file of events; None: each conversation holds its own.
        columns: the key of each field of a conversation; the fields are `COLUMNS`.
        event_columns: the key of each field of an event; the fields are `EVENT_COLUMNS`.
        signals: what implicit signals mean; None for nothing. Any name may be added to the table.
        timezone: the zone of times that name none.
        day_first: the order of day and month in numbers; None: as the other times of a file have it.
    """

    path: str
    events: str | None
    columns: Mapping[str, str | None]
    event_columns: Mapping[str, str | None]
    signals: Mapping[str, bool | None]
    timezone: str
    day_first: bool | None

    def read(self) -> Iterator[Row | Note]:
        """One row for each event of the second file, or, without one, for each conversation.

        Conversations of which a second file says nothing give no row; those that cannot be read give one each, first.

        Raises:
            LabError: a file cannot be read, or a setting is wrong.
        """
        path = existing(self.path, "export.path")
        told = _Told(
            _fields(self.columns, COLUMNS, "columns"),
            _fields(self.event_columns, EVENT_COLUMNS, "event_columns"),
            scale_of(self.labels, self.up_from, self.down_to, node="export"),
            signals_of(self.signals, tuple(self.signals)),
            self._times("columns"),
            self._times("event_columns"),
            unread_of(self.ignore, "id", "model"),
        )
        events = None if self.events is None else existing(self.events, "export.events")
        judged = path if events is None else events
        values = told.labels_of_conversation if events is None else told.labels_of_event
        scale, notes = self.scale(records(judged), values, judged.name)
        yield from notes
        told = replace(told, thumbs=scale)
        if events is None:
            yield from rows_of(records(path), told.by_conversation)
        else:
            yield from self._by_event(told, path, events)
        yield from notes_of(told.unread, path.name)

    def _by_event(self, told: "_Told", path: Files, events: Files) -> Iterator[Row]:
        seen = Seen()
        with lookup() as found:

            def of_event(where: str, event: dict[str, Any]) -> Row:
                identity = identity_of(told.of_event(event, "conversation"))
                conversation = found.get(identity) if identity else None
                if conversation is None:
                    raise NoThumbError(Reason.NO_ANSWER, f"no conversation {shown(identity)}")
                thumb = told.thumb(where, conversation, event)
                seen.refuse_again(told.of_event(event, "id"), (thumb,))
                return Row((thumb,))

            yield from found.fill(records(path), told.keys)
            yield from rows_of(records(events), of_event)

    def _times(self, field: Literal["columns", "event_columns"]) -> Times:
        """How the times of conversations, or of events, are read: each by the order that its own values decide."""
        column = getattr(self, field).get("timestamp")
        key = self.columns.get("events")

        def values() -> Iterator[Any]:
            own = field == "event_columns" and self.events is None
            of_file = existing(self.path if own or field == "columns" else str(self.events), "export.path")
            for _, row in readable(records(of_file)):
                inner = cell(row, key) if own and key is not None else [row]
                if isinstance(inner, list):
                    yield from (cell(one, str(column)) for one in inner if isinstance(one, dict))

        return Times(
            zone_of(self.timezone, "export.timezone"),
            self.day_first,
            values=values,
            node="export",
            field=f"{field}.timestamp",
        )


@dataclass(frozen=True)
class _Told:
    """How conversations and events are read; see `ChatLogExport`."""

    columns: Mapping[str, str]
    event_columns: Mapping[str, str]
    thumbs: Scale
    signals: Mapping[str, bool | None]
    times: Times
    event_times: Times
    unread: Unread

    def of(self, conversation: dict[str, Any], name: str) -> Any:
        """A field of a conversation."""
        return cell(conversation, self.columns[name]) if name in self.columns else None

    def of_event(self, event: dict[str, Any], name: str) -> Any:
        """A field of an event."""
        return cell(event, self.event_columns[name]) if name in self.event_columns else None

    def keys(self, conversation: dict[str, Any]) -> Iterator[str]:
        """What a conversation is found by."""
        identity = identity_of(self.of(conversation, "conversation"))
        if identity is not None:
            yield identity

    def labels_of_conversation(self, conversation: dict[str, Any]) -> Iterator[Any]:
        """The thumbs of a conversation, as they are."""
        own = self.of(conversation, "events")
        for event in own if isinstance(own, list) else ():
            yield from self.labels_of_event(event)
        if "value" in self.event_columns:
            yield self.of(conversation, "thumb")

    def labels_of_event(self, event: Any) -> Iterator[Any]:
        """The thumb of an event, as it is; none of an implicit signal."""
        if not isinstance(event, dict):
            return
        kind, value = self.of_event(event, "type"), self.of_event(event, "value")
        if not (isinstance(kind, str) and kind in self.signals):
            yield kind if value is None else value

    def by_conversation(self, where: str, conversation: dict[str, Any]) -> Row:
        """All that a conversation with its own events gives."""
        own = self.of(conversation, "events")
        events = (
            [(f"{where}.events[{number}]", event) for number, event in enumerate(own)] if isinstance(own, list) else []
        )
        if self.of(conversation, "thumb") is not None and "value" in self.event_columns:
            events.append((where, {self.event_columns["value"]: self.of(conversation, "thumb")}))
        if not events:
            raise NoThumbError(Reason.NO_THUMB, "no event, and no thumb")
        thumbs, left_out = [], []
        for place, event in events:
            try:
                if not isinstance(event, dict):
                    raise NoThumbError(Reason.UNREADABLE, f"an event is {shown(event)}")
                thumbs.append(self.thumb(place, conversation, event))
            except NoThumbError as none:
                left_out.append(LeftOut(place, none.reason, none.detail))
        return Row(tuple(thumbs), tuple(left_out))

    def thumb(self, where: str, conversation: dict[str, Any], event: dict[str, Any]) -> Thumb:
        """What one event says of one answer; NoThumbError where it says nothing."""
        desirable, signal = self._verdict(event)
        messages = decoded(self.of(conversation, "messages"))
        if not isinstance(messages, list):
            raise NoThumbError(Reason.NO_PROMPT, f"the conversation has {shown(messages)} for messages")
        place = self._place(messages, event)
        judged = self.of_event(event, "completion")
        self.unread.look(conversation, [str(steps_of(column)[0]) for column in self.columns.values()])
        when = self.event_times.read(self.of_event(event, "timestamp"))
        when = when.otherwise(self.times.read(self.of(conversation, "timestamp")))
        return Thumb(
            where=where,
            prompt=prompt_of(_standing(messages[:place]), self.unread, tools=self.of(conversation, "tools")),
            completion=answer_of(messages[place], self.unread) if judged is None else completion_of(judged),
            desirable=desirable,
            signal=signal,
            rater=identity_of(self.of_event(event, "user")) or identity_of(self.of(conversation, "user")),
            model=identity_of(messages[place].get("model")) or identity_of(self.of(conversation, "model")),
            timestamp=when.utc,
            unread_time=when.unread,
            identity=identity_of(self.of_event(event, "id")),
        )

    def _verdict(self, event: dict[str, Any]) -> tuple[bool, str]:
        """Thumbs-up or not, and what said so."""
        kind, value = self.of_event(event, "type"), self.of_event(event, "value")
        if isinstance(kind, str) and kind in self.signals:
            means = self.signals[kind]
            if means is None:
                raise NoThumbError(Reason.NO_THUMB, f"the signal {shown(kind)}, which is mapped to null")
            return means, kind
        return verdict(self.thumbs, kind if value is None else value)[0], "thumb"

    def _place(self, messages: list[Any], event: dict[str, Any]) -> int:
        """Which message the event is on."""
        identity, index = self.of_event(event, "message"), self.of_event(event, "index")
        answers = [number for number, message in enumerate(messages) if role_of(message) == "assistant"]
        if identity is not None:
            named = [number for number, message in enumerate(messages) if _is(message, identity)]
            what = f"message {shown(identity)}"
        elif index is not None:
            exact = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(messages)
            named = [index] if exact else []
            what = f"message {shown(index)}"
        else:
            named, what = answers[-1:], "answer"
        if not named:
            raise NoThumbError(Reason.NO_ANSWER, f"the conversation has no {what}")
        if named[-1] not in answers:
            raise NoThumbError(Reason.NO_ANSWER, f"{what} is not the assistant's")
        return named[-1]


def _fields(columns: Mapping[str, str | None], known: tuple[str, ...], key: str) -> dict[str, str]:
    if unknown := sorted(set(columns) - set(known)):
        raise LabError(f"export.{key} has no field {unknown[0]!r}. Known: {', '.join(known)}.")
    return {name: column for name, column in columns.items() if column is not None}


def _standing(messages: list[Any]) -> list[Any]:
    """The turns that stand: of answers that follow each other only the last, and before the judged answer none."""
    kept: list[Any] = []
    for message in messages:
        if kept and role_of(message) == "assistant" and role_of(kept[-1]) == "assistant":
            kept.pop()
        kept.append(message)
    return kept[:-1] if kept and role_of(kept[-1]) == "assistant" else kept


def _is(message: Any, identity: Any) -> bool:
    named = identity_of(identity)
    return named is not None and isinstance(message, dict) and identity_of(message.get("id")) == named
