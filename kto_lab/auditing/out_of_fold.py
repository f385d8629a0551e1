"""Signal: classifiers of the text, asked of prompts that they have not been trained on.

Two of them on the same folds: logistic regression on words and characters, which sees what is said, and boosted trees
on the look of the answer (length, case, marks, overlap with the prompt) and the topic of the prompt, which see forms,
also such as depend on what the prompt asks for. How much each counts is fitted to the given labels: three numbers.

The features are of the text alone. Where a label turns on something that has to be worked out, such as whether a sum
is right, they are weak, and the policy's own reward says more (see `training`).
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from kto_lab.auditing.examples import Bools, Examples, Floats, Ints
from kto_lab.auditing.signals import LIMIT, Signal

TOPICS = 24
MARKS = ",.!?\"'*[]<>:;-()#`"
WORDS = r"(?u)\b\w+\b"
# A word or a run of characters in fewer texts than this says nothing of others.
LEAST_TEXTS = 2
MOST_FEATURES = 100_000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Features:
    """What the classifiers see of N examples; no label is in it.

    Attributes:
        texts: words and characters (N, many), sparse.
        looks: the answers' looks with the prompts' topics (N, few).
    """

    texts: Any
    looks: Floats


def out_of_fold(features: Features, labels: Bools, folds: Ints, *, seed: int) -> Signal:
    """The probability of a thumbs-up by classifiers that were trained without the example's fold.

    Args:
        features: of N examples, see `text_features`.
        labels: (N,) their thumbs.
        folds: (N,) see `make_folds`.
        seed: of the trees.
    """
    logits = np.zeros((len(labels), 2))
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        for column, (model, seen) in enumerate(zip(_models(seed), (features.texts, features.looks), strict=True)):
            model.fit(seen[outside], labels[outside])
            logits[inside, column] = _logit(model.predict_proba(seen[inside])[:, 1])
    return Signal("out_of_fold", _mixed(logits, labels), np.ones(len(labels), dtype=bool))


def _mixed(logits: Floats, labels: Bools) -> Floats:
    """(N,) probabilities from the log-odds (N, 2) of the two classifiers."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0).fit(logits, labels).predict_proba(logits)[:, 1]


def _models(seed: int) -> tuple[Any, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    trees = HistGradientBoostingClassifier(
        max_iter=80,
        learning_rate=0.08,
        max_leaf_nodes=12,
        min_samples_leaf=20,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    return LogisticRegression(C=1.0, max_iter=500), trees


def text_features(examples: Examples, *, seed: int) -> Features:
    """What the classifiers see of the examples; the seed is of the decomposition of prompts into topics."""
    from scipy import sparse
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    settings = {"sublinear_tf": True, "max_features": MOST_FEATURES}
    parts = []
    for texts, kind in (
        (examples.prompts, {"ngram_range": (1, 2), "token_pattern": WORDS}),
        (examples.completions, {"ngram_range": (1, 2), "token_pattern": WORDS}),
        (examples.completions, {"ngram_range": (1, 3), "analyzer": "char", "lowercase": False}),
    ):
        # The vocabulary is learned from all texts and no label.
        try:
            parts.append(TfidfVectorizer(min_df=min(LEAST_TEXTS, len(texts)), **settings, **kind).fit_transform(texts))
        except ValueError:
            # No word occurs in two texts.
            parts.append(sparse.csr_matrix((len(texts), 1)))
    topics = min(TOPICS, parts[0].shape[1] - 1)
    looks = [surface(examples)]
    if topics > 0:
        looks.append(TruncatedSVD(topics, random_state=seed).fit_transform(parts[0]))
    return Features(sparse.hstack(parts).tocsr(), np.hstack(looks))


def surface(examples: Examples) -> Floats:
    """(N, features) of how an answer looks, and how much of it is the prompt's."""
    columns = (examples.prompts, examples.completions, examples.finished.tolist())
    return np.array([_look(*row) for row in zip(*columns, strict=True)], dtype=np.float64)


def _look(prompt: str, completion: str, finished: bool) -> list[float]:
    text = completion.strip() or " "
    size = len(completion)
    words = _WORD.findall(completion.lower())
    asked = set(_WORD.findall(prompt.lower()))
    shared = sum(word in asked for word in words)
    upper = sum(map(str.isupper, completion))
    return [
        size,
        len(words),
        completion.count("\n"),
        len(set(words)) / max(len(words), 1),
        upper,
        upper / max(size, 1),
        sum(map(str.isdigit, completion)),
        *(completion.count(mark) for mark in MARKS),
        shared / max(len(words), 1),
        finished,
        text[0].isupper(),
        ord(text[0]),
        ord(text[-1]),
        bool(words) and words[0] in asked,
        bool(words) and words[-1] in asked,
        bool(words) and " ".join(words[-3:]) in prompt.lower(),
        len(prompt),
    ]


def _logit(probability: Floats) -> Floats:
    bounded = np.clip(probability, LIMIT, 1 - LIMIT)
    return np.log(bounded / (1 - bounded))
