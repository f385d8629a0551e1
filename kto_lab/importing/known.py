"""How the exports of tools look: which columns tell a tool and its version, and what is read of each column.

The formats of files of rows are in `kto_lab.feedback.presets`; here are the tools with a reader of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kto_lab.feedback.paths import cell


@dataclass(frozen=True)
class Version:
    """One form of a tool's rows.

    Attributes:
        name: of the version, for people; None where the tool has one form only.
        told_by: columns, or paths into them, that each of its rows has; "a|b" where either does.
        objects: those of them that hold an object.
    """

    name: str | None
    told_by: Sequence[str]
    objects: Sequence[str] = ()

    def told(self, row: Mapping[str, Any]) -> list[str] | None:
        """The columns by which a row is of this version; None where it is not."""
        found = []
        for names in self.told_by:
            name = next((name for name in names.split("|") if cell(row, name) is not None), None)
            if name is None or (name in self.objects and not isinstance(cell(row, name), Mapping)):
                return None
            found.append(name)
        return found


@dataclass(frozen=True)
class Tool:
    """The export of a tool.

    Attributes:
        name: of the tool, for people.
        versions: its forms; the first that fits is taken.
        reads: each column that the reader reads, and what it is read as.
        path: the key of the reader that names the file.
        further: what has to be set beside the file, as on the command line; empty where nothing has.
    """

    name: str
    versions: Sequence[Version]
    reads: Mapping[str, str]
    path: str = "path"
    further: str = ""


_VOTE = {
    **dict.fromkeys(("winner", "winner_model_a", "winner_model_b", "winner_tie"), "thumb"),
    **dict.fromkeys(("conversation_a", "conversation_b"), "prompt and answer"),
    **dict.fromkeys(("response_a", "response_b"), "answer"),
    **dict.fromkeys(("judge", "evaluation_session_id"), "rater"),
    **dict.fromkeys(("model_a", "model_b"), "model"),
    **dict.fromkeys(("tstamp", "timestamp"), "time"),
    **dict.fromkeys(("question_id", "id"), "identity"),
    "prompt": "prompt",
}

# By the option of the group `export`; the most particular first.
TOOLS: dict[str, Tool] = {
    "open_webui": Tool(
        "Open WebUI's feedback history",
        [Version("0.12 (version 0 of its feedback)", ["data.rating", "snapshot.chat", "meta"])],
        {
            "data": "thumb",
            "snapshot": "prompt and answer",
            "meta": "which answer it is on, model",
            "user_id": "rater",
            "created_at": "time",
            "updated_at": "time",
            "id": "identity",
            "type": "whether it is a rating",
            "version": "version",
        },
    ),
    "argilla": Tool(
        "records of Argilla",
        [Version("2", ["fields", "responses"], ["fields", "responses"])],
        {
            "fields": "prompt and answer",
            "responses": "thumbs and their raters",
            "suggestions": "thumbs, where export.suggestions is true",
            "metadata": "model, where export.model_key names it",
            "id": "identity",
        },
    ),
    "label_studio": Tool(
        "tasks of Label Studio",
        [Version("1", ["data", "annotations"], ["data"])],
        {"data": "prompt and answer", "annotations": "thumbs, their raters and times", "id": "identity"},
    ),
    "arena": Tool(
        "votes of an arena",
        [
            Version("2025 (messages)", ["conversation_a", "conversation_b", "winner", "evaluation_session_id"]),
            Version("2023 (messages)", ["conversation_a", "conversation_b", "winner"]),
            Version("2024 (lists of turns)", ["response_a", "response_b", "winner_model_a", "winner_model_b"]),
        ],
        _VOTE,
    ),
    "langfuse": Tool(
        "scores of Langfuse",
        [
            Version("the API and the page (traceId)", ["name", "dataType", "traceId|observationId|subject"]),
            Version("the export to a blob storage (trace_id)", ["name", "data_type", "trace_id|observation_id"]),
        ],
        {
            **dict.fromkeys(("name", "data_type", "dataType"), "which scores are thumbs"),
            **dict.fromkeys(("value", "string_value", "stringValue"), "thumb"),
            **dict.fromkeys(("trace_id", "traceId", "observation_id", "observationId", "subject"), "what it is on"),
            **dict.fromkeys(("author_user_id", "authorUserId"), "rater"),
            "timestamp": "time",
            "id": "identity",
        },
        path="scores",
        further="export.observations=FILE (or export.traces=FILE) export.name=SCORE",
    ),
    "langsmith": Tool(
        "feedback of LangSmith",
        [Version(None, ["key", "run_id|trace_id", "feedback_source|score|value"])],
        {
            "key": "which feedback is a thumb",
            **dict.fromkeys(("score", "value"), "thumb"),
            **dict.fromkeys(("run_id", "trace_id"), "what it is on"),
            "feedback_source": "rater",
            **dict.fromkeys(("created_at", "modified_at"), "time"),
            "id": "identity",
        },
        path="feedback",
        further="export.runs=FILE export.key=KEY",
    ),
    "chat_log": Tool(
        "a chat log",
        [Version(None, ["messages", "events|thumb"])],
        {
            "id": "conversation",
            "messages": "prompt and answer",
            "model": "model",
            "user": "rater",
            "created": "time",
            "events": "thumbs",
            "thumb": "thumb",
        },
    ),
}
