"""Langfuse and LangSmith: thumbs in one file, what they are on in another."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kto_lab.errors import LabError
from kto_lab.importing.exports.traced import traced_answer, traced_prompt
from kto_lab.importing.exports.values import NoThumbError, unread_of
from kto_lab.importing.thumbs import Reason, Row
from tests.importing.exports.export_cases import read, reasons, thumbs_of

FIXTURES = Path(__file__).parent / "fixtures"
USER = [{"role": "user", "content": "Hi"}]


def langfuse(**changes: Any) -> list[Row]:
    paths = {f"{part}s": str(FIXTURES / f"langfuse_{part}s.jsonl") for part in ("score", "observation", "trace")}
    return read("langfuse", **{**paths, **changes})


def langsmith(**changes: Any) -> list[Row]:
    paths = {"feedback": str(FIXTURES / "langsmith_feedback.jsonl"), "runs": str(FIXTURES / "langsmith_runs.jsonl")}
    return read("langsmith", **{**paths, **changes})


def test_langfuse_scores_find_what_they_are_on() -> None:
    rows = langfuse()
    first, second, third, fourth = thumbs_of(rows)
    assert [turn["role"] for turn in first.prompt if isinstance(turn, dict)] == ["system", "user", "assistant", "user"]
    assert (first.completion, first.desirable, first.score, first.signal) == ("Fine.", True, None, "thumb")
    assert (first.rater, first.model, first.timestamp) == ("u-ann", "gpt-4o", "2026-05-01T09:30:00Z")
    # On a trace: its root observation, as the trace holds no answer of its own.
    assert (second.prompt, second.completion, second.desirable) == (
        [{"role": "user", "content": "What is 2+2?"}],
        "5",
        False,
    )
    assert (third.completion, third.desirable, third.rater, third.model) == ("The Loire.", True, "annotator-1", None)
    # As the API's third version writes it.
    assert (fourth.completion, fourth.desirable, fourth.score, fourth.rater) == ("Fine.", False, None, "u-ann")


def test_langfuse_rows_without_a_thumb_have_their_reasons() -> None:
    rows = langfuse()
    assert len(rows) == 9 + 1, "each score, and the observation that is cut off"
    assert reasons(rows) == {
        "langfuse_observations.jsonl:4": Reason.UNREADABLE,
        "langfuse_scores.jsonl:5": Reason.NO_THUMB,
        "langfuse_scores.jsonl:6": Reason.UNKNOWN_THUMB,
        "langfuse_scores.jsonl:7": Reason.NO_ANSWER,
        "langfuse_scores.jsonl:8": Reason.NO_ANSWER,
        "langfuse_scores.jsonl:9": Reason.DUPLICATE_ID,
    }
    alone = reasons(langfuse(observations=None))
    assert alone["langfuse_scores.jsonl:1"] is Reason.NO_ANSWER and "langfuse_scores.jsonl:3" not in alone


def test_langsmith_feedback_finds_its_run() -> None:
    first, second, third = thumbs_of(langsmith())
    assert first.prompt == [{"role": "system", "content": "Be brief."}, *USER]
    assert (first.completion, first.desirable, first.score) == ("Hello.", True, None)
    assert (first.rater, first.model, first.timestamp) == ("u-ann", "gpt-4o-mini", "2026-05-01T09:30:05Z")
    assert [turn["role"] for turn in second.prompt if isinstance(turn, dict)] == ["user", "assistant", "user"]
    assert (second.completion, second.desirable, second.rater) == ("7", False, "u-ben")
    assert (third.completion, third.desirable, third.model, third.timestamp) == (
        "The Rhine.",
        False,
        "mistral",
        "2026-05-01T07:32:00Z",
    )


def test_langsmith_rows_without_a_thumb_have_their_reasons() -> None:
    assert reasons(langsmith()) == {
        "langsmith_feedback.jsonl:4": Reason.NO_THUMB,
        "langsmith_feedback.jsonl:5": Reason.NO_THUMB,
        "langsmith_feedback.jsonl:6": Reason.NO_COMPLETION,
        "langsmith_feedback.jsonl:7": Reason.NO_ANSWER,
        "langsmith_feedback.jsonl:8": Reason.UNKNOWN_SCHEMA,
    }


def test_runs_of_a_bulk_export_are_read(tmp_path: Path) -> None:
    runs = [json.loads(line) for line in (FIXTURES / "langsmith_runs.jsonl").read_text().splitlines()]
    texts = [{"id": run["id"], **{key: json.dumps(run[key]) for key in ("inputs", "outputs", "extra")}} for run in runs]
    texts[2].update({key: runs[2][key] for key in ("inputs", "outputs", "extra")})
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "runs.parquet")
    assert thumbs_of(langsmith(runs=str(tmp_path / "runs.parquet"))) == thumbs_of(langsmith())


@pytest.mark.parametrize(
    "value",
    [
        "Hi",
        USER,
        {"messages": USER},
        {"input": "Hi"},
        {"inputs": {"question": "Hi"}},
        {"role": "user", "content": "Hi"},
        [["human", "Hi"]],
        [USER],
        {"messages": [{"type": "human", "data": {"content": "Hi"}}]},
        json.dumps({"messages": json.dumps(USER)}),
    ],
    ids=str,
)
def test_forms_of_a_prompt(value: Any) -> None:
    assert traced_prompt(value, None, unread_of(())) == USER


@pytest.mark.parametrize(
    "value",
    [
        "Ho",
        {"role": "assistant", "content": "Ho"},
        {"content": [{"type": "text", "text": "Ho"}]},
        {"output": "Ho"},
        {"choices": [{"message": {"content": "Ho", "role": "assistant"}}]},
        {"generations": [[{"text": "Ho"}]]},
        {"messages": [*USER, {"type": "ai", "content": "Ho"}]},
        [*USER, {"role": "assistant", "content": "Ho"}],
        {"output": {"answer": "Ho"}},
    ],
    ids=str,
)
def test_forms_of_an_answer(value: Any) -> None:
    assert traced_answer(value, None, unread_of(())) == "Ho"


def test_an_answer_may_be_json_and_a_key_may_be_named() -> None:
    assert traced_answer('{"city": "Rome"}', None, unread_of(())) == '{"city": "Rome"}'
    assert traced_prompt({"city": "Hi", "input": "no"}, "city", unread_of(())) == USER
    assert traced_answer({"city": "Ho", "output": "no"}, "city", unread_of(())) == "Ho"
    for value, key in (({"city": "Hi"}, None), ({"city": "Hi"}, "town"), (7, None), ({"output": USER}, None)):
        with pytest.raises(NoThumbError):
            traced_answer(value, key, unread_of(()))
    with pytest.raises(NoThumbError, match=r"user.*image"):
        traced_prompt([{"role": "user image", "content": "x"}], None, unread_of(()))


def test_a_missing_file_names_its_setting(tmp_path: Path) -> None:
    for key in ("scores", "observations", "traces"):
        with pytest.raises(LabError, match=f"export.{key}"):
            langfuse(**{key: str(tmp_path / "gone.jsonl")})
    with pytest.raises(LabError, match=r"export\.runs"):
        langsmith(runs=str(tmp_path / "gone.jsonl"))


def test_what_a_trace_holds_beside_its_prompt_and_its_answer_is_counted() -> None:
    unread = unread_of(())
    traced_prompt(
        {"messages": [{"role": "user", "content": "Hi"}], "system": "Be brief.", "temperature": 1}, None, unread
    )
    traced_answer({"message": {"role": "assistant", "content": "Ho", "images": [1]}}, None, unread)
    with pytest.raises(LabError, match=r"'system' .*'images' "):
        unread.sentence("runs")
    assert "temperature" in (replace(unread, ignore=frozenset(["system", "images"])).sentence("runs") or "")
    with pytest.raises(NoThumbError, match="may be turns or alternatives"):
        traced_answer(["Ho", "He"], None, unread)
