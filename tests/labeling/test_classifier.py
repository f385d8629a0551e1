from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kto_lab.errors import LabError
from kto_lab.hashing import content_hash
from kto_lab.judging.answer import Answer
from kto_lab.labeling.classifier import Classifier
from kto_lab.labeling.labels import Label
from kto_lab.labeling.threshold import Threshold
from tests.labeling.labeling_cases import CPU, reviews, training

CLASSIFIER = Classifier(folds=3, strength=10.0, threshold=Threshold("value", 0.5, 0))


def scores(answers: list[Answer], thumbs: list[Answer]) -> list[float]:
    found = CLASSIFIER.label(answers, thumbs, CPU).verdicts
    assert all(isinstance(one, Label) for one in found)
    return [one.score for one in found if isinstance(one, Label) and one.score is not None]


def test_it_learns_which_words_are_liked_also_from_noisy_thumbs() -> None:
    answers = reviews(prompts=60, noise=0.15)
    found = scores(answers, training(answers))
    truth = [answer.truth for answer in answers]
    assert roc_auc_score(truth, found) > 0.9
    held_out = [row for row, answer in enumerate(answers) if answer.more["split"] == "test"]
    assert roc_auc_score([truth[row] for row in held_out], [found[row] for row in held_out]) > 0.9
    # Calibrated on noisy thumbs: of answers with chance c, about c have a thumb up.
    thumbs = np.array([answer.thumb for answer in answers])
    upper = np.array(found) > 0.5
    assert abs(thumbs[upper].mean() - np.array(found)[upper].mean()) < 0.12


def test_a_thumb_does_not_reach_its_own_prompt() -> None:
    # Texts that say nothing of their thumbs; a classifier that saw an answer's own thumb would repeat it.
    rng = np.random.default_rng(0)
    thumbs = [bool(thumb) for thumb in rng.random(90) < 0.5]
    answers = [Answer(f"{n}?", content_hash(n), str(n), thumb, thumb) for n, thumb in enumerate(thumbs)]
    found = scores(answers, answers)
    assert abs(roc_auc_score(thumbs, found) - 0.5) < 0.25
    turned = [replace(answers[0], thumb=not answers[0].thumb), *answers[1:]]
    assert scores(turned, turned)[0] == found[0]


def test_it_needs_thumbs_of_both_kinds() -> None:
    answers = reviews(prompts=6)
    with pytest.raises(LabError, match=r"finds 0 up and 0 down there\. Give it more: feedback="):
        CLASSIFIER.label(answers, [], CPU)
    ups = [answer for answer in answers if answer.thumb]
    with pytest.raises(LabError, match="0 down"):
        CLASSIFIER.label(answers, ups, CPU)
    with pytest.raises(LabError, match="strength is 0"):
        replace(CLASSIFIER, strength=0).label(answers, answers, CPU)
