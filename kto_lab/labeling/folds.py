"""Out-of-fold learning from thumbs: what is learned from the thumbs of a prompt is never used on that prompt."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kto_lab.errors import LabError
from kto_lab.hashing import content_hash

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.int64]
# Takes rows of answers and predicts for them.
Predict: TypeAlias = Callable[[Rows], Floats]


def fold_of(identity: str, folds: int) -> int:
    """The fold of a prompt: a pure function of its identity."""
    return int(content_hash("fold", identity)[:8], 16) % folds


def out_of_fold(prompts: Sequence[str], learned: Sequence[str], folds: int, fit: Callable[[Rows], Predict]) -> Floats:
    """Predictions for answers by what was fitted without any thumb of their prompt.

    Args:
        prompts: (N,) the prompt of each answer to predict for.
        learned: (M,) the prompt of each thumb to learn from.
        folds: how many folds the prompts of the thumbs are cut into, at least 2.
        fit: takes rows of thumbs, and returns what takes rows of answers.

    Returns:
        (N,) predictions. Answers to prompts without a thumb have those of a fit on all thumbs.
    """
    if folds < 2:
        raise LabError(f"labeler.folds is {folds}; it must be at least 2.")
    fold_of_thumb = np.array([fold_of(identity, folds) for identity in learned])
    known = set(learned)
    # Folds go by prompt; an answer to a prompt without thumbs belongs to none, -1.
    fold_of_answer = np.array([fold_of(identity, folds) if identity in known else -1 for identity in prompts])
    found = np.empty(len(prompts))
    for fold in range(-1, folds):
        rows = np.flatnonzero(fold_of_answer == fold)
        if rows.size:
            found[rows] = fit(np.flatnonzero(fold_of_thumb != fold))(rows)
    return found


def require_both(thumbs: Sequence[bool], what: str) -> None:
    """LabError unless there are thumbs of both kinds to learn from."""
    if any(thumbs) and not all(thumbs):
        return
    up = sum(thumbs)
    raise LabError(
        f"{what} learns from thumbs of the training split, and finds {up} up and {len(thumbs) - up} down there. Give "
        "it more: feedback=... names a table of thumbs, answers.columns.label those in the file of answers. With few "
        "thumbs, more folds leave more of them to each."
    )
