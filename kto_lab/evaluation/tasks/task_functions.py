"""What the task files beside this module call. lm-eval imports it by path, from wherever the folder was copied to."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset


def documents(*, file: str, **_metadata: Any) -> dict[str, Dataset]:
    """The documents of a JSONL file beside this module. lm-eval passes its metadata along, which changes nothing."""
    lines = Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The score of an answer by the document's checks, and its length in words."""
    # Imported here, so that the neutral text can be scored where kto_lab is not installed.
    from kto_lab.feedback.checkers import metric_name, score_answer
    from kto_lab.models.reasoning import Markup

    (answer,) = results
    # The words are judged, and not what the chat template has before them.
    _, answer = Markup(**doc.get("markup", {})).part(answer)
    return {metric_name(doc["checks"]): score_answer(doc["checks"], answer), "answer_words": float(len(answer.split()))}
