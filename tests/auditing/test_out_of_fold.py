"""The classifiers of the text."""

import numpy as np
from sklearn.metrics import roc_auc_score

from kto_lab.auditing.examples import Examples, make_folds
from kto_lab.auditing.out_of_fold import out_of_fold, surface, text_features
from kto_lab.feedback.table import build_table
from tests.auditing.audit_tables import looks, wrong_labels


def test_it_doubts_labels_that_the_look_of_the_answer_is_against() -> None:
    table = looks(120, flips_down=0.15, flips_up=0.15)
    examples = Examples.of(table)
    signal = out_of_fold(text_features(examples, seed=0), examples.labels, make_folds(examples, 4, seed=0), seed=0)
    assert signal.known.all()
    assert roc_auc_score(wrong_labels(table), signal.suspicion(examples.labels)) > 0.95


def test_an_examples_own_label_tells_nothing() -> None:
    """Of a label of one fold, only the three numbers of the mix could tell there."""
    table = looks(60, flips_down=0.1, flips_up=0.1)
    examples = Examples.of(table)
    folds = make_folds(examples, 3, seed=0)
    features = text_features(examples, seed=0)
    signal = out_of_fold(features, examples.labels, folds, seed=0)
    labels = examples.labels.copy()
    rows = np.flatnonzero(folds == 0)
    labels[rows[0]] = not labels[rows[0]]
    changed = out_of_fold(features, labels, folds, seed=0)
    assert abs(changed.up[rows[0]] - signal.up[rows[0]]) < 0.02


def test_texts_without_a_common_word_do_not_break_it() -> None:
    rows = [
        {"prompt": f"{chr(97 + n) * 3}", "completion": f"{chr(65 + n) * 4}", "desirable": n % 2 == 0, "split": "train"}
        for n in range(20)
    ]
    examples = Examples.of(build_table(rows, source="odd", held_out=0.0))
    signal = out_of_fold(text_features(examples, seed=0), examples.labels, make_folds(examples, 2, seed=0), seed=0)
    assert np.isfinite(signal.up).all()


def test_the_look_of_an_answer_is_finite_for_any_text() -> None:
    rows = [
        {"prompt": "p", "completion": text, "desirable": up}
        for text, up in (("مرحبا", True), ("\N{PILE OF POO}" * 50, False), ("\x00.", True), ("<b>&", False))
    ]
    look = surface(Examples.of(build_table(rows, source="odd", held_out=0.0)))
    assert look.shape[0] == 4 and np.isfinite(look).all()
