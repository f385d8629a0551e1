"""A head that is off fails, in its log-probabilities and in each gradient."""

from typing import Any

import pytest
import torch
from torch import nn

from kto_lab.checking import vocabularies
from kto_lab.checking.settings import QUICK
from kto_lab.models import head
from tests.checking.verdicts import limits, verdicts


@pytest.fixture(autouse=True)
def several_chunks_of_a_small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabularies, "VOCABULARIES", (500,))
    monkeypatch.setattr(head, "CHUNK", 500 * 40)


def found() -> str:
    return verdicts(vocabularies.heads(QUICK, limits()))["head of 500 tokens"]


def test_a_target_that_is_off_by_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found() == "ok"
    right = vocabularies.token_logps

    def before(head: nn.Module, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return right(head, states, (targets - 1) % 500)

    monkeypatch.setattr(vocabularies, "token_logps", before)
    assert found() == "failed"


@pytest.mark.parametrize("which", [0, 1])
def test_a_gradient_that_is_off_fails(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = head.LinearLogps.backward

    def off(ctx: Any, *gradients: torch.Tensor) -> Any:
        whole = list(right(ctx, *gradients))
        if whole[which] is not None:
            whole[which] = whole[which] * 1.001
        return tuple(whole)

    monkeypatch.setattr(head.LinearLogps, "backward", staticmethod(off))
    assert found() == "failed"
