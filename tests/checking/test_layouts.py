"""Rows that are laid out wrongly fail, for the architectures that it bites."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kto_lab.checking import families, layouts, policies
from kto_lab.checking.settings import QUICK
from kto_lab.models import attention
from kto_lab.models.attention import packs
from kto_lab.models.logps import TokenLogps
from tests.checking.verdicts import limits, verdicts

WINDOWED = {"rows of Mistral", "rows of Gemma 3", "rows of Phi-3"}


def failed() -> set[str]:
    return {name for name, verdict in verdicts(layouts.architectures(QUICK, limits())).items() if verdict == "failed"}


def test_every_architecture_passes_in_rows_that_are_packed() -> None:
    model = families.model("Llama", QUICK)
    policies.logps(model, policies.sequences(QUICK), packed=True)
    assert packs(model), "what is compared is not twice the same"
    assert not failed()


def test_a_window_of_another_length_fails_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.Segments.groups

    def longer(self: attention.Segments, window: int | None = None) -> Any:
        return right(self, None if window is None else window + 1)

    monkeypatch.setattr(attention.Segments, "groups", longer)
    assert failed() == WINDOWED


def only_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "CONFIGS", {"Llama": families.CONFIGS["Llama"]})


@pytest.mark.parametrize("error", [1e-4, float("nan")])
def test_packed_rows_that_are_off_fail(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    only_llama(monkeypatch)
    right = layouts.logps

    def off(*given: Any, packed: bool = False, **more: Any) -> Tensor:
        return right(*given, packed=packed, **more) * (1 + error * packed)

    monkeypatch.setattr(layouts, "logps", off)
    assert failed() == {"rows of Llama"}


def test_a_row_that_looks_into_its_neighbour_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = families.model("Llama", QUICK), policies.sequences(QUICK)
    assert layouts.moved_by_neighbours(model, tokens) <= limits().packed
    right = policies.completion_token_logps

    def leaking(*given: Any, **more: Any) -> TokenLogps:
        found = right(*given, **more)
        first, last = torch.zeros_like(found.values), found.values[-1]
        first[0] = 1e-3
        return TokenLogps(found.values + first * last, found.lengths)

    monkeypatch.setattr(policies, "completion_token_logps", leaking)
    assert layouts.moved_by_neighbours(model, tokens) > limits().packed
