"""Answers, log-likelihoods and kept log-probabilities that are not what they should be fail."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kto_lab.checking import answers
from kto_lab.checking.settings import QUICK
from kto_lab.models import generate, store
from tests.checking.verdicts import limits


def test_answers_that_see_their_padding_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers.greedy(QUICK, limits()).verdict == "ok"
    right = generate.next_token_logits

    def seeing(model: Any, ids: Tensor, mask: Tensor, *more: Any) -> Tensor:
        return right(model, ids, torch.ones_like(mask), *more)

    monkeypatch.setattr(generate, "next_token_logits", seeing)
    assert answers.greedy(QUICK, limits()).verdict == "failed"


def test_log_likelihoods_of_other_tokens_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers.lm_eval(QUICK, limits()).verdict == "ok"
    right = answers.language_model

    def with_a_first_token(*given: Any) -> Any:
        judge = right(*given)
        encode = judge.tok_encode
        judge.tok_encode = lambda text, *more, **how: [0, *encode(text, *more, **how)]
        return judge

    monkeypatch.setattr(answers, "language_model", with_a_first_token)
    assert answers.lm_eval(QUICK, limits()).verdict == "failed"


def test_values_that_are_rounded_in_the_store_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers.store(QUICK, limits()).verdict == "ok"
    right = store.Entries.of

    def rounded(keys: Any, values: np.ndarray) -> Any:
        return right(keys, values.astype(np.float16).astype(np.float32))

    monkeypatch.setattr(store.Entries, "of", rounded)
    assert answers.store(QUICK, limits()).verdict == "failed"
