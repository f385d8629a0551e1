"""The judge of greedy answers that `evaluation.judge` names: a model loaded for the while that it scores."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kto_lab.errors import LabError

if TYPE_CHECKING:
    import torch

    from kto_lab.evaluation.answers import ScoredAnswer
    from kto_lab.judging.reward import RewardModel


# Once a process: the cells of a sweep have the same.
@functools.cache
def check_judge(judge: "RewardModel") -> dict[str, Any]:
    """Load the judge, so that one that cannot be is found before the policy is loaded; returns its provenance.

    Raises:
        LabError: see `RewardModel.open`.
    """
    with _by_its_keys():
        return judge.open().provenance


def judged(judge: "RewardModel", answers: "Sequence[ScoredAnswer]", device: "torch.device") -> "list[ScoredAnswer]":
    """The answers with the judge's scores, `judge_score`; an answer that is too long for it has none.

    Raises:
        LabError: the judge cannot be loaded, or gives a score that is no finite number.
    """
    # Imported here: settings are checked without the packages that labels need.
    from kto_lab.judging.answer import Answer

    asked = [Answer(answer.prompt, answer.answer, answer.prompt_id) for answer in answers]
    with _by_its_keys():
        scores = judge.scores(judge.open(), asked, device)
    return [
        answer if score is None else replace(answer, scores={**answer.scores, "judge_score": score})
        for answer, score in zip(answers, scores, strict=True)
    ]


@contextlib.contextmanager
def _by_its_keys() -> Iterator[None]:
    """Errors of a block speak of the keys of `evaluation.judge`, where the labeler's have the same names."""
    try:
        yield
    except LabError as error:
        raise LabError(str(error).replace("labeler.", "evaluation.judge.")) from error
