"""The command `kto-lab feedback label`: thumbs where there are none."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kto_lab import console
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.feedback.table import build_table
from kto_lab.feedback.table_numbers import fingerprint
from kto_lab.files import atomic_path, write_json
from kto_lab.judging.answer import Answer
from kto_lab.keys import LABEL
from kto_lab.labeling.answers import KEPT, examples_of, of_prompts
from kto_lab.labeling.labels import GIVEN, Label, Labeler, Verdict
from kto_lab.labeling.report import report, show

if TYPE_CHECKING:
    from datasets import Dataset

# Columns beside those of the table of examples, whose readers ignore them.
LABELED_BY, SCORES = "labeled_by", "labeler_scores"


def label_feedback(cfg: DictConfig) -> Path:
    """Label answers, write the table of examples and the report beside it, and return the table's path.

    Raises:
        LabError: the file exists, or no answer gets a thumb.
    """
    if "feedback" not in cfg:
        OmegaConf.update(cfg, "feedback", None, force_add=True)
    check_keys(cfg, LABEL)
    target = Path(cfg.output)
    beside = target.with_suffix(".json")
    for path in (target, beside):
        if path.exists():
            raise LabError(f"{path} exists. Choose another output, or remove it to label again.")
    console.stage("Answers", "What is to be labelled, and the thumbs that there are.")
    examples = examples_of(instantiate(cfg.feedback)) if cfg.feedback is not None else []
    answers = instantiate(cfg.answers).read(examples)
    answers = of_prompts(answers, cfg.limit_prompts)
    thumbs = to_learn_from(examples, answers)
    wanted = to_label(answers, cfg.given)
    console.say(f"    {len(wanted)} answers to {len({answer.prompt_id for answer in wanted})} prompts to label")
    console.say(f"    {len(thumbs)} thumbs of the training split to learn from")

    labeler: Labeler = instantiate(cfg.labeler)
    console.stage("Labels", f"By {labeler.name}; a thumb is never learned from on its own prompt.")
    labelled = labeler.label(wanted, thumbs, instantiate(cfg.trainer).device)
    found = report(wanted, labelled, labeler.name)
    kept = [answer for answer in answers if answer.thumb is not None] if cfg.given == "keep" else []
    table = labelled_table(wanted, labelled.verdicts, kept, name=labeler.name, source=target.stem)
    with atomic_path(target) as partial:
        pq.write_table(table.data.table, partial, write_page_checksum=True)
    numbers = {
        "configuration": OmegaConf.to_container(cfg, resolve=True),
        "fingerprint": fingerprint(table),
        "given_and_kept": len(kept),
        **found.as_dict(),
    }
    write_json(beside, numbers)
    show(found)
    console.stage("Files", "The table that a run reads, and all of this in numbers.")
    console.show_files({"table": target, "report": beside})
    console.say(f"    train on it with feedback=collected feedback.path={target}")
    return target


def to_learn_from(examples: Sequence[Answer], answers: Sequence[Answer]) -> list[Answer]:
    """The thumbs that a labeler may learn from: those of the table and the answers in the training split, each once.

    Thumbs of held-out prompts are for evaluation; labels for training must not depend on them.
    """
    distinct = {id(answer): answer for answer in (*examples, *answers)}
    return [answer for answer in distinct.values() if answer.thumb is not None and answer.more.get("split") == "train"]


def to_label(answers: Sequence[Answer], given: Literal["replace", "keep"]) -> list[Answer]:
    """The answers that are to get a thumb.

    Raises:
        LabError: there are none.
    """
    if given not in ("replace", "keep"):
        raise LabError(f"given is {given!r}; it must be 'replace' or 'keep'.")
    wanted = [answer for answer in answers if answer.thumb is None or given == "replace"]
    if not wanted:
        raise LabError(
            "Every answer has a thumb, and given=keep labels only those without. Use given=replace."
            if answers
            else "There is no answer to label."
        )
    return wanted


def labelled_table(
    answers: Sequence[Answer], verdicts: Sequence[Verdict], kept: Sequence[Answer], *, name: str, source: str
) -> "Dataset":
    """The table of examples of the answers that have a thumb, then of those that kept theirs.

    `desirable` is the label; `desirable_clean` is the thumb that an answer had before, where it had one, so that
    evaluation goes by it. `rater` is the labeler.

    Args:
        answers: (N,) what was labelled.
        verdicts: (N,) what the labeler said.
        kept: answers with thumbs of their own.
        name: of the labeler.
        source: the name of the table, for errors.

    Raises:
        LabError: no answer has a thumb.
    """
    rows: list[dict[str, Any]] = []
    marks: list[tuple[str, str]] = []
    for answer, verdict in zip(answers, verdicts, strict=True):
        if isinstance(verdict, Label):
            rows.append(_row(answer, verdict.desirable, rater=name, score=verdict.score))
            marks.append((verdict.by, json.dumps(dict(verdict.scores), ensure_ascii=False)))
    for answer in kept:
        assert answer.thumb is not None
        rows.append(_row(answer, answer.thumb, rater=answer.more.get("rater"), score=answer.more.get("score")))
        marks.append((GIVEN, "{}"))
    if not rows:
        raise LabError(
            f"No answer got a thumb from labeler={name}: nothing is written. Look at its rules or threshold."
        )
    # Every row says its split, so that no share is held out here.
    table = build_table(rows, source=source, held_out=0)
    for column, values in zip((LABELED_BY, SCORES), zip(*marks, strict=True), strict=True):
        table = table.add_column(column, pa.array(values, pa.string()))
    return table


def _row(answer: Answer, desirable: bool, *, rater: str | None, score: float | None) -> dict[str, Any]:
    known = {name: answer.more.get(name) for name in KEPT if name in answer.more}
    row = {**known, "prompt": answer.prompt, "completion": answer.said, "where": answer.where}
    return {**row, "desirable": desirable, "desirable_clean": answer.truth, "rater": rater, "score": score}
