"""Votes between two answers, as Chatbot Arena publishes them; a vote becomes two thumbs, which are a pair.

Read from the data cards of `lmsys/chatbot_arena_conversations` (2023) and `lmarena-ai/arena-human-preference-140k`
(2025):

    {"question_id" or "id", "model_a", "model_b", "winner", "conversation_a": [{"role", "content"}], "conversation_b",
     "judge" or "evaluation_session_id", "turn", "language", "tstamp" or "timestamp"}

`winner` is model_a, model_b, tie, or "tie (bothbad)" (2025: both_bad). The content of 2025 is a list of parts. The
competition of 2024 (`lmarena-ai/arena-human-preference-55k`) has lists of turns instead, as JSON texts, where an answer
may be null:

    {"id", "model_a", "model_b", "prompt": [text], "response_a": [text], "response_b": [text],
     "winner_model_a": 0 or 1, "winner_model_b", "winner_tie"}

Files are JSON lines, a JSON list, CSV or Parquet. A vote is on whole conversations; the thumb goes to each side's last
answer, whose prompt is everything before it on that side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kto_lab.errors import LabError
from kto_lab.feedback.asked import texts_of, turns
from kto_lab.feedback.messages import decoded
from kto_lab.feedback.rows import existing
from kto_lab.feedback.scale import number_of
from kto_lab.feedback.times import Times, zone_of
from kto_lab.feedback.unread import Unread
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
    unread_of,
)
from kto_lab.importing.thumbs import Completion, LeftOut, Note, Reason, Row, Thumb

TIES = ("leave_out", "both_up", "both_down")
_BOTH_BAD = ("tie (bothbad)", "both_bad", "bothbad")
# What its columns are called; only some are of use here.
_KNOWN = (
    *("question_id", "id", "model_a", "model_b", "winner", "judge", "evaluation_session_id", "evaluation_order"),
    *("conversation_a", "conversation_b", "full_conversation", "conv_metadata", "category_tag", "is_code", "turn"),
    *("anony", "language", "tstamp", "timestamp", "openai_moderation", "toxic_chat_tag"),
    *("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
)
_BOTH = {"both_up": (True, True), "both_down": (False, False)}


@dataclass(frozen=True)
class ArenaExport:
    """Votes between two models.

    Attributes:
        path: the file of votes.
        ties: what a tie says of both answers.
        both_bad: what "both are bad" says of them.
        timezone: the zone of times that name none.
        ignore: columns, and keys of messages, that are left out by name.
        cut_at: the tool cuts texts at so many characters; None: it does not.
    """

    path: str
    ties: Literal["leave_out", "both_up", "both_down"]
    both_bad: Literal["leave_out", "both_up", "both_down"]
    timezone: str
    ignore: Sequence[str]
    cut_at: int | None

    def read(self) -> Iterator[Row | Note]:
        """One row for each vote.

        Raises:
            LabError: the file cannot be read, or a setting is wrong.
        """
        for key, value in (("ties", self.ties), ("both_bad", self.both_bad)):
            if value not in TIES:
                raise LabError(f"export.{key} is {value!r}; it must be one of {', '.join(TIES)}.")
        times = Times(zone_of(self.timezone, "export.timezone"))
        file = existing(self.path, "export.path")
        unread, seen = unread_of(self.ignore), Seen()

        def make(where: str, raw: dict[str, Any]) -> Row:
            up = self._winners(raw)
            when = times.first(raw.get("tstamp"), raw.get("timestamp"))
            identity = identity_of(raw.get("question_id")) or identity_of(raw.get("id"))
            thumbs, missing = [], []
            unread.look(raw, _KNOWN)
            sides = [_side(raw, side, where, unread) for side in "ab"]
            # Later turns answer what was said before on their own side: no pair of one prompt.
            paired = up[0] != up[1] and sides[0][0] == sides[1][0] and None not in (sides[0][1], sides[1][1])
            for side, desirable, (prompt, completion) in zip("ab", up, sides, strict=True):
                if completion is None:
                    missing.append(LeftOut(where, Reason.NO_COMPLETION, f"response_{side} lacks a turn"))
                    continue
                thumbs.append(
                    Thumb(
                        where=where,
                        prompt=prompt,
                        completion=completion,
                        desirable=desirable,
                        signal="vote",
                        rater=identity_of(raw.get("judge")) or identity_of(raw.get("evaluation_session_id")),
                        model=identity_of(raw.get(f"model_{side}")),
                        timestamp=when.utc,
                        unread_time=when.unread,
                        identity=identity,
                        pair=where if paired else None,
                    )
                )
            seen.refuse_again(identity, tuple(thumbs))
            return Row(tuple(thumbs), tuple(missing))

        yield from rows_of(records(file), make)
        yield from notes_of(unread, file.name)

    def _winners(self, raw: dict[str, Any]) -> tuple[bool, bool]:
        """Whether each side gets a thumbs-up."""
        columns = "winner_tie" in raw
        winner = _winner_of_columns(raw) if columns else raw.get("winner")
        if winner in ("model_a", "model_b"):
            return winner == "model_a", winner == "model_b"
        if winner is None and "conversation_a" not in raw and not columns:
            raise NoThumbError(Reason.UNKNOWN_SCHEMA, "no vote: it has neither `winner` nor `conversation_a`")
        if winner is None or winner == "":
            raise NoThumbError(Reason.NO_THUMB, "no vote")
        if winner != "tie" and winner not in _BOTH_BAD:
            raise NoThumbError(Reason.UNKNOWN_THUMB, shown(winner))
        both = _BOTH.get(self.ties if winner == "tie" else self.both_bad)
        if both is None:
            raise NoThumbError(Reason.NO_THUMB, f"a tie: {shown(winner)}")
        return both


def _winner_of_columns(raw: dict[str, Any]) -> str | None:
    """The winner, where each outcome has a column of 0 or 1."""
    outcomes = {"model_a": "winner_model_a", "model_b": "winner_model_b", "tie": "winner_tie"}
    said = [winner for winner, column in outcomes.items() if number_of(raw.get(column)) == 1]
    if len(said) > 1:
        raise NoThumbError(Reason.UNKNOWN_THUMB, f"{' and '.join(said)} at once")
    return said[0] if said else None


def _side(raw: dict[str, Any], side: str, where: str, unread: Unread) -> tuple[list[dict[str, str]], Completion | None]:
    """What one side was asked and what it answered; no answer where it lacks a turn."""
    if f"conversation_{side}" not in raw and f"response_{side}" in raw:
        questions = texts_of(raw.get("prompt")) or [raw.get("prompt")]
        try:
            messages, answer = turns(questions, raw[f"response_{side}"], where)
        except LabError as error:
            raise NoThumbError(Reason.UNREADABLE, "prompt and responses have other numbers of turns") from error
        return prompt_of(messages), None if answer is None else completion_of(answer)
    talk = decoded(raw.get(f"conversation_{side}"))
    if not isinstance(talk, list) or not talk or not all(isinstance(turn, dict) for turn in talk):
        raise NoThumbError(Reason.NO_COMPLETION, f"conversation_{side} is {shown(talk)}")
    if talk[-1].get("role") != "assistant":
        raise NoThumbError(Reason.NO_ANSWER, f"conversation_{side} does not end with the assistant's turn")
    return prompt_of(talk[:-1], unread), answer_of(talk[-1], unread)
