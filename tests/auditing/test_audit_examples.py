"""Examples as signals read them, folds, and signals."""

import numpy as np
import pytest

from kto_lab.auditing.examples import Examples, make_folds, prompt_text
from kto_lab.auditing.signals import Signal
from kto_lab.errors import LabError
from kto_lab.feedback.table import build_table
from tests.auditing.audit_tables import looks


def test_no_prompt_is_in_two_folds_and_row_order_does_not_matter() -> None:
    table = looks(40)
    examples = Examples.of(table)
    folds = make_folds(examples, 4, seed=0)
    assert set(folds.tolist()) == {0, 1, 2, 3}
    by_prompt = dict(zip(examples.prompt_ids, folds.tolist(), strict=True))
    assert [by_prompt[prompt] for prompt in examples.prompt_ids] == folds.tolist()
    order = np.random.default_rng(0).permutation(len(table))
    assert make_folds(Examples.of(table.select(order)), 4, seed=0).tolist() == folds[order].tolist()
    assert make_folds(examples, 4, seed=1).tolist() != folds.tolist()


def test_too_few_prompts_for_the_folds_are_refused() -> None:
    with pytest.raises(LabError, match="Lower folds"):
        make_folds(Examples.of(looks(3)), 20, seed=0)
    with pytest.raises(LabError, match="at least 2"):
        make_folds(Examples.of(looks(3)), 1, seed=0)


def test_one_class_cannot_be_audited() -> None:
    table = build_table([{"prompt": "a", "completion": "b", "desirable": True}], source="one", held_out=0.0)
    with pytest.raises(LabError, match="desirable"):
        Examples.of(table)


def test_chat_prompts_are_read_as_text() -> None:
    assert prompt_text([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]) == "Be kind.\nHi"
    assert prompt_text("plain") == "plain"


def test_a_signals_suspicion_is_of_the_other_label() -> None:
    signal = Signal("x", np.array([0.9, 0.9, 0.5]), np.array([True, True, False]))
    assert signal.suspicion(np.array([True, False, True])).tolist() == pytest.approx([0.1, 0.9, 0.5])
    assert signal.logits[2] == 0 and np.isfinite(Signal("x", np.array([0.0, 1.0]), np.ones(2, bool)).logits).all()
    with pytest.raises(ValueError, match="no probabilities"):
        Signal("x", np.array([np.nan]), np.array([True]))
