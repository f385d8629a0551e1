"""Labels by a small classifier of words and letters, trained on existing thumbs.

TF-IDF of the answer's words, word pairs and letters, and of the prompt's words, feeds a logistic regression whose
probabilities are calibrated by Platt scaling on inner folds. All that it knows of an answer is which words and letters
are in it: good for tone, topic and form, poor where the thumb depends on what the prompt asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kto_lab.errors import LabError
from kto_lab.judging.answer import Answer
from kto_lab.labeling.folds import Predict, Rows, fold_of, out_of_fold, require_both
from kto_lab.labeling.labels import Label, Labelled, NoLabel, Verdict
from kto_lab.labeling.threshold import NEAR, Threshold

if TYPE_CHECKING:
    import torch

# Inner folds, for the calibration alone.
CALIBRATION_FOLDS = 3


@dataclass(frozen=True)
class Classifier:
    """The labeler.

    Attributes:
        folds: number of folds by prompt; no answer is labelled by a classifier that saw a thumb of its prompt.
        strength: inverse strength of the L2 penalty.
        threshold: from scores, which are probabilities, to thumbs.
    """

    folds: int
    strength: float
    threshold: Threshold
    name = "classifier"

    def label(self, answers: Sequence[Answer], thumbs: Sequence[Answer], device: "torch.device") -> Labelled:
        """See `Labeler`.

        Raises:
            LabError: there are no thumbs of both kinds to learn from.
        """
        if self.strength <= 0:
            raise LabError(f"labeler.strength is {self.strength}; it must be above 0.")
        require_both([bool(answer.thumb) for answer in thumbs], "The classifier")
        given = np.array([bool(answer.thumb) for answer in thumbs])
        learned = [answer.prompt_id for answer in thumbs]

        def fit(rows: Rows) -> Predict:
            require_both(given[rows].tolist(), "A fold of the classifier")
            texts = [_texts(thumbs[row]) for row in rows]
            fitted = train(texts, given[rows].tolist(), [learned[row] for row in rows], self.strength)
            return lambda wanted: fitted.predict_proba([_texts(answers[row]) for row in wanted])[:, 1]

        scores = out_of_fold([answer.prompt_id for answer in answers], learned, self.folds, fit)
        line = self.threshold.line(scores.tolist())
        verdicts: list[Verdict] = []
        for score in scores.tolist():
            thumb = self.threshold.thumb(score, line)
            verdicts.append(NoLabel(NEAR) if thumb is None else Label(thumb, "classifier", score, {"chance": score}))
        learned_from = {"thumbs": len(thumbs), "prompts": len(set(learned)), "desirable": int(given.sum())}
        return Labelled(verdicts, {"learned_from": learned_from, "line": line})


def _texts(answer: Answer) -> tuple[str, str]:
    """Prompt and answer, as the vectorizers below take them."""
    return answer.prompt_text, answer.completion


def _prompt(texts: tuple[str, str]) -> str:
    return texts[0]


def _completion(texts: tuple[str, str]) -> str:
    return texts[1]


def train(texts: Sequence[tuple[str, str]], thumbs: Sequence[bool], prompts: Sequence[str], strength: float) -> Any:
    """A scikit-learn classifier of (prompt, answer) pairs, with calibrated `predict_proba`.

    Args:
        texts: (M,) prompts and answers.
        thumbs: (M,) of both kinds.
        prompts: (M,) identities of the prompts, by which the calibration is cross-fitted.
        strength: inverse strength of the L2 penalty.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    common = {"sublinear_tf": True, "lowercase": False, "max_features": 50_000}
    # Every token counts, single letters and marks, too: an answer may be one number, or a matter of one asterisk.
    tokens = r"\w+|[^\w\s]"
    features = make_union(
        TfidfVectorizer(preprocessor=_completion, token_pattern=tokens, ngram_range=(1, 2), **common),
        TfidfVectorizer(preprocessor=_completion, analyzer="char", ngram_range=(1, 4), **common),
        TfidfVectorizer(preprocessor=_prompt, token_pattern=tokens, **common),
    )
    model = make_pipeline(features, LogisticRegression(C=strength, max_iter=1000))
    folds = np.array([fold_of(f"calibration {prompt}", CALIBRATION_FOLDS) for prompt in prompts])
    given = np.array(thumbs)
    splits = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(CALIBRATION_FOLDS)]
    if any(len(set(given[part])) < 2 for split in splits for part in split):
        # Too few thumbs to calibrate with: the regression's own chances.
        return model.fit(list(texts), given)
    return CalibratedClassifierCV(model, method="sigmoid", cv=splits).fit(list(texts), given)
