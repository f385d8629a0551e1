"""Votes between two answers, as Chatbot Arena publishes them; a vote becomes two thumbs.

Read from the data cards of `lmsys/chatbot_arena_conversations` (2023) and `lmarena-ai/arena-human-preference-140k`
(2025):

    {"question_id" or "id", "model_a", "model_b", "winner", "conversation_a": [{"role", "content"}], "conversation_b",
     "judge" or "evaluation_session_id", "turn", "language", "tstamp" or "timestamp"}

`winner` is model_a, model_b, tie, or "tie (bothbad)" (2025: both_bad). The content of 2025 is a list of parts. Files
are JSON lines, a JSON list or Parquet. A vote is on whole conversations; the thumb is given to each side's last answer,
after everything that was said before on that side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from kto_lab.errors import LabError
from kto_lab.importing.exports.reading import existing, records, rows_of
from kto_lab.importing.exports.values import (
    NoThumbError,
    Seen,
    completion_of,
    decoded,
    identity_of,
    prompt_of,
    shown,
    utc,
    zone_of,
)
from kto_lab.importing.thumbs import Reason, Row, Thumb

TIES = ("leave_out", "both_up", "both_down")
_BOTH_BAD = ("tie (bothbad)", "both_bad", "bothbad")
_BOTH = {"both_up": (True, True), "both_down": (False, False)}


@dataclass(frozen=True)
class ArenaExport:
    """Votes between two models.

    Attributes:
        path: the file of votes.
        ties: what a tie says of both answers.
        both_bad: what "both are bad" says of them.
        timezone: what a time means that names no zone.
    """

    path: str
    ties: Literal["leave_out", "both_up", "both_down"]
    both_bad: Literal["leave_out", "both_up", "both_down"]
    timezone: str

    def read(self) -> Iterator[Row]:
        """One row for each vote.

        Raises:
            LabError: the file cannot be read, or a setting is wrong.
        """
        for key, value in (("ties", self.ties), ("both_bad", self.both_bad)):
            if value not in TIES:
                raise LabError(f"export.{key} is {value!r}; it must be one of {', '.join(TIES)}.")
        zone = zone_of(self.timezone)
        file = existing(self.path, "export.path")
        seen = Seen()

        def make(where: str, raw: dict[str, Any]) -> Row:
            up = self._winners(raw)
            when = utc(raw.get("tstamp"), zone) or utc(raw.get("timestamp"), zone)
            thumbs = []
            for side, desirable in zip("ab", up, strict=True):
                prompt, completion = _side(raw, side)
                thumbs.append(
                    Thumb(
                        where=where,
                        prompt=prompt,
                        completion=completion,
                        desirable=desirable,
                        signal="vote",
                        rater=identity_of(raw.get("judge")) or identity_of(raw.get("evaluation_session_id")),
                        model=identity_of(raw.get(f"model_{side}")),
                        timestamp=when,
                    )
                )
            seen.refuse_again(raw.get("question_id") or raw.get("id"), tuple(thumbs))
            return Row(tuple(thumbs))

        yield from rows_of(records(file), make)

    def _winners(self, raw: dict[str, Any]) -> tuple[bool, bool]:
        """Whether each side gets a thumbs-up."""
        winner = raw.get("winner")
        if winner in ("model_a", "model_b"):
            return winner == "model_a", winner == "model_b"
        if winner is None and "conversation_a" not in raw:
            raise NoThumbError(Reason.UNKNOWN_SCHEMA, "no vote: it has neither `winner` nor `conversation_a`")
        if winner is None or winner == "":
            raise NoThumbError(Reason.NO_THUMB, "no vote")
        if winner != "tie" and winner not in _BOTH_BAD:
            raise NoThumbError(Reason.UNKNOWN_THUMB, shown(winner))
        both = _BOTH.get(self.ties if winner == "tie" else self.both_bad)
        if both is None:
            raise NoThumbError(Reason.NO_THUMB, f"a tie: {shown(winner)}")
        return both


def _side(raw: dict[str, Any], side: str) -> tuple[list[dict[str, str]], str]:
    turns = decoded(raw.get(f"conversation_{side}"))
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise NoThumbError(Reason.NO_COMPLETION, f"conversation_{side} is {shown(turns)}")
    if turns[-1].get("role") != "assistant":
        raise NoThumbError(Reason.NO_ANSWER, f"conversation_{side} does not end with the assistant's turn")
    return prompt_of(turns[:-1]), completion_of(turns[-1].get("content"))
