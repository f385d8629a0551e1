import numpy as np
import pytest

from kto_lab.errors import LabError
from kto_lab.labeling.folds import Predict, Rows, fold_of, out_of_fold


def test_no_answer_is_predicted_by_what_saw_its_prompt() -> None:
    answers = [f"prompt {number}" for number in range(40)]
    thumbs = [f"prompt {number}" for number in range(30) for _ in range(2)]
    seen: list[tuple[set[str], list[str]]] = []

    def fit(rows: Rows) -> Predict:
        learned = {thumbs[row] for row in rows}

        def predict(wanted: Rows) -> np.ndarray:
            seen.append((learned, [answers[row] for row in wanted]))
            return np.asarray(wanted, dtype=float)

        return predict

    found = out_of_fold(answers, thumbs, 5, fit)
    assert found.tolist() == list(range(40)), "each answer has the prediction for its own row"
    for learned, predicted in seen:
        assert not learned & set(predicted)
        if predicted[0] in ("prompt 30", "prompt 35"):
            assert len(learned) == 30, "an answer to a prompt without thumbs has all of them to go by"
    assert sum(len(predicted) for _, predicted in seen) == 40


def test_folds_depend_on_the_prompt_alone() -> None:
    folds = [fold_of(f"prompt {number}", 4) for number in range(400)]
    assert folds == [fold_of(f"prompt {number}", 4) for number in range(400)]
    assert min(np.bincount(folds)) > 70


def test_one_fold_is_none() -> None:
    with pytest.raises(LabError, match="folds is 1"):
        out_of_fold(["a"], ["a"], 1, lambda rows: lambda wanted: np.zeros(1))
