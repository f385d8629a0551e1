"""Suspects for the tools that people review in, and reviewers' decisions from them and from our own page.

| tool                            | written                               | read back                           |
|---------------------------------|---------------------------------------|-------------------------------------|
| the page (`review_page`)        | review.html                           | decisions.json, which it downloads  |
| Label Studio (JSON task format) | tasks.json, labeling_config.xml       | the project's export as JSON        |
| Argilla 2 (SDK 2.8)             | a folder for `rg.Dataset.from_disk`   | `dataset.records.to_json(...)`      |

Formats: https://labelstud.io/guide/task_format, https://labelstud.io/guide/predictions and
https://docs.argilla.io/latest/how_to_guides/import_export. Both tools are shown the audit's opinion, "flip", before a
person decides, but not where an example was drawn at random to estimate rates: there it would lead the reviewer.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from kto_lab.auditing.review_page import AT_RANDOM
from kto_lab.errors import LabError
from kto_lab.feedback import argilla
from kto_lab.feedback.rows import Paths, Reading, existing, whole_text
from kto_lab.files import write_json, write_text

Choice: TypeAlias = Literal["keep", "flip", "drop", "skip"]
CHOICES: dict[Choice, str] = {
    "keep": "Keep: the thumb is right",
    "flip": "Flip: the other thumb is right",
    "drop": "Drop: neither thumb can be right",
    "skip": "Skip: no decision",
}
FORMAT, VERSION = "kto-lab decisions", 1
AUDIT = "kto-lab audit"
QUESTION = "decision"
GUIDELINES = (
    "Each answer has a thumb that may be wrong. Decide by the answer alone: is it what a good rater would want? "
    "Keep the thumb, flip it, or drop the example where neither thumb can be right. Skip what you cannot tell."
)

# Without "skip": Label Studio has a button of its own for that.
_LABELING_CONFIG = """<View>
  <Style>.htx-text{ white-space: pre-wrap; }</Style>
  <Paragraphs name="prompt" value="$prompt" layout="dialogue" nameKey="role" textKey="content"/>
  <Header value="$thumb"/>
  <Text name="completion" value="$completion" valueType="text"/>
  <Header value="$why" size="6"/>
  <Choices name="decision" toName="completion" choice="single-radio" showInline="true" required="true">
    <Choice value="keep" hotkey="k"/>
    <Choice value="flip" hotkey="f"/>
    <Choice value="drop" hotkey="d"/>
  </Choices>
</View>
"""


@dataclass(frozen=True)
class Decision:
    """What one reviewer says of one example.

    Attributes:
        where: its place in the file, for errors.
        example_id: of the example.
        choice: "keep", "flip", "drop" or "skip".
        desirable: the thumb that the reviewer was shown, which "keep" and "flip" speak of.
        reviewer: who; the file where it does not say.
        sampled_at_random: the example was drawn from all audited ones, whatever its suspicion.
    """

    where: str
    example_id: str
    choice: Choice
    desirable: bool
    reviewer: str
    sampled_at_random: bool


def write_exports(folder: Path, suspects: pa.Table, formats: Sequence[str]) -> dict[str, Path]:
    """Write suspects for other tools, each into its own folder within `folder`; returns format to that folder.

    Args:
        folder: to write into.
        suspects: as for `kto_lab.auditing.review_page.write_review`.
        formats: of "label_studio" and "argilla".

    Raises:
        LabError: a format is unknown, or one's folder is there.
    """
    if unknown := sorted(set(formats) - set(_WRITERS)):
        raise LabError(f"The audit can be exported to {', '.join(_WRITERS)}, but not to {unknown[0]!r}.")
    targets = {name: folder / name for name in formats}
    if there := [target for target in targets.values() if target.exists()]:
        raise LabError(f"{there[0]} exists. Choose another output, or remove it to export again.")
    rows = sorted(suspects.to_pylist(), key=lambda row: row["rank"])
    for name, target in targets.items():
        _WRITERS[name](target, rows)
    return targets


def _write_label_studio(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(folder / "labeling_config.xml", _LABELING_CONFIG)
    write_json(folder / "tasks.json", [_task(row) for row in rows])


def _task(row: Mapping[str, Any]) -> dict[str, Any]:
    data = {
        "example_id": row["example_id"],
        "prompt": _turns(row["prompt"]),
        "completion": row["completion"],
        "thumb": _thumb(row["desirable"]),
        "why": _why(row),
        "rank": row["rank"],
        "suspicion": row["suspicion"],
        "desirable": row["desirable"],
        AT_RANDOM: bool(row.get(AT_RANDOM)),
    }
    if data[AT_RANDOM]:
        return {"data": data}
    result = {"from_name": QUESTION, "to_name": "completion", "type": "choices", "value": {"choices": ["flip"]}}
    return {"data": data, "predictions": [{"model_version": AUDIT, "score": row["suspicion"], "result": [result]}]}


def _write_argilla(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    argilla.write_dataset(
        folder,
        "kto-lab-audit",
        guidelines=GUIDELINES,
        fields=[
            argilla.chat("prompt", "Prompt"),
            argilla.text("completion", "Completion that the thumb is on"),
            argilla.text("thumb", "The thumb"),
            argilla.text("why", "What the audit says"),
        ],
        questions=[
            argilla.choice(QUESTION, "What of this thumb?", {str(value): words for value, words in CHOICES.items()})
        ],
        metadata=[
            argilla.metadata_of("rank", "integer", visible=True),
            argilla.metadata_of("suspicion", "float", visible=True),
            # Metadata are numbers or terms: 0 and 1. Hidden, as they would lead the reviewer.
            argilla.metadata_of("desirable", "integer", visible=False),
            argilla.metadata_of(AT_RANDOM, "integer", visible=False),
        ],
        records=map(_record, rows),
    )


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    at_random = bool(row.get(AT_RANDOM))
    suspicion = row["suspicion"]
    suggestion = {QUESTION: {"value": "flip", "score": suspicion, "agent": AUDIT}}
    return {
        "id": row["example_id"],
        "fields": {
            "prompt": _turns(row["prompt"]),
            "completion": row["completion"],
            "thumb": _thumb(row["desirable"]),
            "why": _why(row),
        },
        "metadata": {
            "rank": row["rank"],
            "suspicion": suspicion,
            "desirable": int(row["desirable"]),
            AT_RANDOM: int(at_random),
        },
        "suggestions": {} if at_random else suggestion,
        "responses": {},
    }


_WRITERS: dict[str, Callable[[Path, Sequence[Mapping[str, Any]]], None]] = {
    "label_studio": _write_label_studio,
    "argilla": _write_argilla,
}


def _turns(prompt: str | list[dict[str, str]]) -> list[dict[str, str]]:
    """Turns of a dialogue; a prompt that is plain text is one."""
    return [{"role": "prompt", "content": prompt}] if isinstance(prompt, str) else prompt


def _why(row: Mapping[str, Any]) -> str:
    """Why an example is doubted. Argilla refuses a required field that is empty."""
    return f"Why doubted: {row['why']}" if row["why"] else "No doubt is known"


def _thumb(desirable: bool) -> str:
    return f"This completion has thumbs {'up' if desirable else 'down'}"


def read_decisions(path: Paths | Path, key: str = "decisions") -> list[Decision]:
    """The decisions in files: of the page, or exports of Label Studio or Argilla, which are found by their look.

    Argilla's records do not say whether a response was submitted or is a draft: export those that were submitted.

    Args:
        path: the file, or files; see `kto_lab.feedback.rows.existing`.
        key: the setting that names it, for messages.

    Raises:
        LabError: a file is missing, no JSON or of no known form, or a decision in it is none.
    """
    return [one for file in existing(path, key).files for one in _decisions(file)]


def _decisions(file: Path) -> list[Decision]:
    try:
        content = json.loads(whole_text(file, Reading(node="decisions", keys=False)))
    except (ValueError, RecursionError) as error:
        raise LabError(f"{file} cannot be read as JSON: {error}. Export or download the decisions again.") from error
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return list(_of_page(file, content))
    if isinstance(content, list) and all(isinstance(item, dict) for item in content):
        if content and all("annotations" in item and isinstance(item.get("data"), dict) for item in content):
            return [one for item in content for one in _of_task(f"{file}, task {item.get('id')}", item)]
        if content and all("responses" in item and isinstance(item.get("metadata"), dict) for item in content):
            return [one for item in content for one in _of_record(f"{file}, record {item.get('id')}", item)]
    raise LabError(
        f"{file} is neither the review page's decisions.json, nor the JSON export of a Label Studio project, nor the "
        "records.json of an Argilla dataset. Label Studio also exports JSON-MIN and CSV: choose JSON."
    )


def _of_page(file: Path, content: Mapping[str, Any]) -> Iterator[Decision]:
    if content.get("version") != VERSION:
        raise LabError(f"{file}: version {content.get('version')!r} of the decisions is not known, only {VERSION}.")
    items = content.get("decisions")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise LabError(f"{file}: 'decisions' is no list of decisions. Download them from the review page again.")
    for number, item in enumerate(items, start=1):
        where = f"{file}, decision {number}"
        yield _decision(where, item, item.get("decision"), content.get("reviewer") or str(file))


def _of_task(where: str, task: Mapping[str, Any]) -> Iterator[Decision]:
    """Every annotation of a Label Studio task, a reviewer's last one last."""
    annotations = task["annotations"]
    if not isinstance(annotations, list) or not all(isinstance(item, dict) for item in annotations):
        raise LabError(f"{where}: 'annotations' is no list of annotations. Export the project as JSON again.")
    for annotation in sorted(annotations, key=lambda item: str(item.get("updated_at") or "")):
        by = annotation.get("completed_by")
        reviewer = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
        yield _decision(where, task["data"], _chosen(annotation), f"Label Studio {reviewer}")


def _chosen(annotation: Mapping[str, Any]) -> Any:
    """The choice of an annotation; one that was cancelled, or has none, is a skip."""
    if annotation.get("was_cancelled"):
        return "skip"
    results = annotation.get("result")
    for result in results if isinstance(results, list) else ():
        if isinstance(result, dict) and result.get("from_name") == QUESTION:
            value = result.get("value")
            choices = value.get("choices") if isinstance(value, dict) else None
            return choices[0] if isinstance(choices, list) and choices else "skip"
    return "skip"


def _of_record(where: str, record: Mapping[str, Any]) -> Iterator[Decision]:
    """Every response to an Argilla record."""
    responses = record["responses"].get(QUESTION, []) if isinstance(record["responses"], dict) else None
    if not isinstance(responses, list) or not all(isinstance(item, dict) for item in responses):
        raise LabError(f"{where}: 'responses' holds no list of responses. Export with records.to_json again.")
    thumb = record["metadata"].get("desirable")
    example = {
        "example_id": record.get("id"),
        "desirable": thumb == 1 if isinstance(thumb, int | float) else None,
        AT_RANDOM: record["metadata"].get(AT_RANDOM) == 1,
    }
    for response in responses:
        yield _decision(where, example, response.get("value"), f"Argilla {response.get('user_id')}")


def _decision(where: str, example: Mapping[str, Any], choice: Any, reviewer: Any) -> Decision:
    identity, desirable = example.get("example_id"), example.get("desirable")
    if not isinstance(identity, str) or not isinstance(desirable, bool):
        raise LabError(f"{where}: example_id or desirable is missing. Use the files that the audit wrote.")
    if not isinstance(choice, str) or choice not in CHOICES:
        raise LabError(f"{where}: the decision is {choice!r}; it must be one of {', '.join(CHOICES)}.")
    return Decision(where, identity, choice, desirable, str(reviewer), bool(example.get(AT_RANDOM)))
