"""A run whose gradient is wrong leaves the curve in float64."""

from typing import Any

import pytest

from kto_lab.checking import curves
from kto_lab.checking.settings import QUICK
from kto_lab.models.head import LinearLogps
from tests.checking.verdicts import limits, verdicts


def test_a_wrong_gradient_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "CURVES", {"SFT": curves.CURVES["SFT"]})
    right = LinearLogps.backward

    def without_the_weight(ctx: Any, *gradients: Any) -> Any:
        whole = list(right(ctx, *gradients))
        whole[1] = whole[1] * 0
        return tuple(whole)

    monkeypatch.setattr(LinearLogps, "backward", staticmethod(without_the_weight))
    assert verdicts(curves.ten_steps(QUICK, limits())) == {"10 steps of SFT": "failed"}


@pytest.mark.slow
def test_every_curve_is_that_of_float64() -> None:
    assert {*verdicts(curves.ten_steps(QUICK, limits())).values()} <= {"ok", "note"}


def test_without_its_library_qlora_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "CURVES", {"KTO, QLoRA": curves.CURVES["KTO, QLoRA"]})
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    (row,) = curves.ten_steps(QUICK, limits())
    assert row.verdict == "note" and "kto-lab[quantization]" in row.measured
