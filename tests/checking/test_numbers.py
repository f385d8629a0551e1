"""Numbers that are off from float64, or do not repeat, fail."""

from typing import Any

import pytest
from torch import Tensor

from kto_lab.checking import numbers
from kto_lab.checking.settings import QUICK
from tests.checking.verdicts import limits, verdicts


@pytest.mark.parametrize(("check", "error"), [("from_float64", 1e-3), ("from_float64", float("nan")), ("in_bf16", 0.1)])
def test_log_probs_and_gradients_that_are_off_fail(check: str, error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(verdicts(getattr(numbers, check)(QUICK, limits())).values()) == {"ok"}
    right = numbers.logps
    monkeypatch.setattr(numbers, "logps", lambda *given, **more: right(*given, **more) * (1 + error))
    assert set(verdicts(getattr(numbers, check)(QUICK, limits())).values()) == {"failed"}


def test_steps_that_do_not_repeat_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "STEPS", 2)
    assert numbers.repeats(QUICK, limits()).verdict == "ok"
    right, calls = numbers.logps, iter(range(100))

    def once_off(*given: Any, **more: Any) -> Tensor:
        # One bit in the last step of the second run.
        return right(*given, **more) * (1 + 1e-6 * (next(calls) == 5))

    monkeypatch.setattr(numbers, "logps", once_off)
    row = numbers.repeats(QUICK, limits())
    assert row.verdict == "failed" and "weights differ" in row.measured
