"""What the policies of a study answered to the same held-out prompts, side by side.

A mean says little of what a policy writes. Of the cells that a table or figure shows, those are taken that differ by
their method alone and whose means are furthest apart, with the first seed; of their prompts those whose scores are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kto_lab.evaluation.metrics import label
from kto_lab.models.tokens import Prompt
from kto_lab.reports.frame import DONE, SEED, choices, plain
from kto_lab.reports.words import choice_words
from kto_lab.sealed import DamagedError, read_json

# Of a run folder: the answers of the trained policy, and of the one before training.
ANSWERS = Path("evaluation") / "trained.json"
BASE = ANSWERS.with_name("base.json")
# Prompts that are shown.
MOST = 8


@dataclass(frozen=True)
class Answer:
    """What one policy answered.

    Attributes:
        policy: the value of the choice that tells methods apart; None for the policy before training.
        text: the answer.
        score: None where nothing scored it.
    """

    policy: Any
    text: str
    score: float | None


@dataclass(frozen=True)
class Answered:
    """A prompt, and what each policy answered."""

    prompt: Prompt
    answers: Sequence[Answer]

    @property
    def spread(self) -> float:
        """How far the scores of the trained policies are apart."""
        scores = [one.score for one in self.answers if one.policy is not None and one.score is not None]
        return max(scores) - min(scores) if scores else 0.0


@dataclass(frozen=True)
class SideBySide:
    """Answers to a few prompts.

    Attributes:
        cells: what the cells have in common, in words.
        score: what the score is, in words; "" where nothing scored the answers.
        prompts: of how many prompts these are the ones.
        rows: the prompts, the largest differences first.
    """

    cells: str
    score: str
    prompts: int
    rows: Sequence[Answered]


def side_by_side(frame: pd.DataFrame, method: str, over: Sequence[str], metric: str, folder: Path) -> SideBySide | None:
    """The answers of each method to the prompts on which they differ most.

    Args:
        frame: the cells that a table or figure shows: one setting of each method.
        method: the choice that tells methods apart.
        over: choices that were searched over, which may differ between methods.
        metric: whose means say where methods are furthest apart.
        folder: of the study.

    Returns:
        None where the runs keep no answers, as those of a published study, or where all are the same.
    """
    shared = [key for key in choices(frame) if key not in (method, *over)]
    cells: dict[tuple[Any, ...], dict[Any, Mapping[str, Any]]] = {}
    for row in frame[frame["status"] == DONE].to_dict("records"):
        if (folder / row["folder"] / ANSWERS).is_file():
            place = (*(plain(row[key]) for key in shared), plain(row[SEED]))
            cells.setdefault(place, {})[plain(row[method])] = row
    if not cells:
        return None
    first_seed = min(place[-1] for place in cells)
    place = max(
        (one for one in cells if one[-1] == first_seed), key=lambda one: _apart(list(cells[one].values()), metric)
    )
    runs = {policy: folder / row["folder"] for policy, row in cells[place].items()}
    found = {policy: _read(run / ANSWERS) for policy, run in runs.items()}
    base = _read(next(iter(runs.values())) / BASE)
    first = next(iter(found.values()))
    asked = [prompt for prompt in first if all(prompt in answers for answers in found.values())]
    policies = ({None: base} if base else {}) | found
    every = [
        Answered(
            prompt=first[prompt].prompt,
            answers=[
                Answer(policy, answers[prompt].text, answers[prompt].score)
                for policy, answers in policies.items()
                if prompt in answers
            ],
        )
        for prompt in asked
    ]
    differing = [one for one in every if len({answer.text for answer in one.answers}) > 1]
    if not differing:
        return None
    differing.sort(key=lambda one: (-one.spread, -len({answer.text for answer in one.answers})))
    named = [*zip(shared, place[:-1], strict=True), ("seed", place[-1])]
    scored = next((first[prompt].metric for prompt in asked if first[prompt].metric), None)
    return SideBySide(
        cells=", ".join(choice_words(key, value) for key, value in named if value is not None),
        score=label(scored) if scored else "",
        prompts=len(asked),
        rows=differing[:MOST],
    )


@dataclass(frozen=True)
class _Kept:
    """An answer as a run keeps it."""

    prompt: Prompt
    text: str
    metric: str | None
    score: float | None


def _apart(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[int, float]:
    """How many methods there are, and how far they are apart."""
    values = [float(row[metric]) for row in rows if plain(row.get(metric)) is not None]
    return len(rows), max(values) - min(values) if values else 0.0


def _read(file: Path) -> dict[str, _Kept]:
    """Prompt to answer; empty where the file is not there.

    Raises:
        DamagedError: it is damaged, or not what a run writes.
    """
    mend = "Remove it, and the report goes without these answers."
    try:
        return {row["prompt_id"]: _kept(row) for row in read_json(file, mend)["answers"]}
    except OSError:
        return {}
    except (KeyError, TypeError) as error:
        raise DamagedError(file, f"it holds no answers ({error!r})", mend) from error


def _kept(row: Mapping[str, Any]) -> _Kept:
    # The first score is of the checks, or else of the judge.
    metric, score = next(iter(row["scores"].items()), (None, None))
    return _Kept(row["prompt"], row["answer"], metric, score)
